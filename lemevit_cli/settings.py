"""The choices of a user, as frozen records: commands fill them, the tasks read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Device = str  # "auto", "cpu", "cuda", "cuda:N", "mps"
Precision = Literal["auto", "fp32", "bf16", "fp16"]
RuntimeName = Literal["auto", "torch", "openvino"]
OutputType = Literal["classes", "scores"]
OnError = Literal["fail", "nodata"]
RUNTIMES: tuple[RuntimeName, ...] = ("auto", "torch", "openvino")
USUAL_SCORE = 0.3  # of a box that counts, where neither a user nor the weights say another
FusedShare = float | Literal["auto"]  # of the tokens of LeMeViT's long stage


@dataclass(frozen=True, kw_only=True)
class SceneOptions:
    """Options of the opening of a scene.

    Args:
        bidx: bands in the order the model wants them, counted from 1; a band may repeat.
            None takes all bands that are not alpha.
        nodata: value that means "no data" where the file does not say so; replaces the file's.
        src_crs: CRS for a file that lost its own, anything pyproj understands.
        missing_crs: likewise, but only where the file names none.
        expand_palette: whether a band of indexes is read as the colours of its palette, unless
            it is the only one in ``bidx``. Rasters of classes have palettes, too.
    """

    bidx: tuple[int, ...] | None = None
    nodata: float | None = None
    src_crs: str | None = None
    missing_crs: str | None = None
    expand_palette: bool = False


@dataclass(frozen=True, kw_only=True)
class ReadingOptions:
    """Options that bring the pixels of a scene to those that the weights learned.

    Args:
        stretch: ``auto`` (percentiles 2 and 98 if neither the dtype is the card's nor the
            numbers are of its range), ``none``, ``LOW,HIGH`` in percent, or ``min=A,max=B`` in
            the scene's values.
        gsd: ``auto`` (resample only outside the card's range), ``native``, or metres.
        bounds: ``(west, south, east, north)`` in map units; only whole pixels inside are read.
        mask: a vector file; pixels outside its polygons are nodata in the result.
    """

    stretch: str = "auto"
    gsd: str = "auto"
    bounds: tuple[float, float, float, float] | None = None
    mask: str | None = None


@dataclass(frozen=True, kw_only=True)
class Tiling:
    """Sizes that a scene is cut to: windows for the model, blocks for the output.

    Args:
        window: side of the square window in model pixels; None takes the card's.
        overlap: pixels shared by two neighbours; None takes the card's.
        batch_size: windows in one pass through the model; None suits the device.
        block_size: side of the output's blocks in pixels, rounded up to whole tiles of the file;
            less wide where a block would hold more than ``block_bytes``. None makes one block of
            the scene, several side by side where one would hold more than that, and blocks that a
            restart need not repeat of a large scene; 4096 where they are spread over processes.
        block_bytes: what a block may hold in memory: a band of scores as tall as a window, and the
            rows that wait until their tiles are full. This much leaves a process with a small
            model, its libraries and GDAL's cache below 2 GB; more would save little, as only the
            windows on the edge of two blocks are seen twice.
    """

    window: int | None = None
    overlap: int | None = None
    batch_size: int | None = None
    block_size: int | None = None
    block_bytes: int = 256 * 10**6


@dataclass(frozen=True, kw_only=True)
class Recovery:
    """What becomes of windows that cannot be read, and of a run that was broken off.

    Args:
        on_error: such a window ends the run (what is finished is kept), or is nodata.
        restart: begin anew, whatever an unfinished run has left beside the target.
    """

    on_error: OnError = "fail"
    restart: bool = False


@dataclass(frozen=True, kw_only=True)
class ClusterOptions:
    """Processes that blocks of a scene are spread over; this one alone if neither is given.

    Args:
        workers: to be started on this machine.
        scheduler: address of a Dask scheduler that runs, ``tcp://HOST:PORT``.
        relay: folder that fsspec writes, for parts of workers that do not see the result's; None
            has them sent.
    """

    workers: int | None = None
    scheduler: str | None = None
    relay: str | None = None

    @property
    def is_used(self) -> bool:
        """Tell whether blocks go to other processes."""
        return self.workers is not None or self.scheduler is not None


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions:
    """Device, precision and passes of the model.

    Args:
        runtime: library that computes; ``auto`` is OpenVINO on a CPU where it is installed and
            can run the network, else torch.
        tta: answer with the mean over the eight symmetries of every window.
        fuse_tokens: share of LeMeViT's tokens that similar ones take over, 0 <= share < 1; ``auto``
            fuses in every window what is alike there.
        fuse_blocks: how the blocks of timm's vision transformer fuse (``r=16``), in place of how
            they were trained to; None leaves them as the card says.
    """

    device: Device = "auto"
    precision: Precision = "auto"
    threads: int | None = None
    runtime: RuntimeName = "auto"
    tta: bool = False
    fuse_tokens: FusedShare = 0.0
    fuse_blocks: str | None = None


@dataclass(frozen=True, kw_only=True)
class OutputOptions:
    """Options of the writing of a result.

    Args:
        format: GDAL driver name (``GTiff``, ``COG``, ``GeoJSON``, ...); None goes by suffix.
        output_type: ``classes`` (one band of ids) or ``scores`` (a band a class).
        creation_options: GDAL creation options, upper-case name to value (``--co``).
        classes: names of the classes kept: as polygons or boxes, or in a raster as a mask, 0
            elsewhere; None keeps all.
        min_area_m2: polygons smaller than this on the ground are left out; in pixels where they
            have no size on the ground. None leaves out those of few pixels, see
            ``vector/region_layers.py``.
        simplify_m: how far outlines of polygons may move, in metres, or pixels likewise; 0 leaves
            the outlines of pixels, None leaves it to the task.
        fill_holes_m2: holes of polygons that are smaller are filled.
        style: put a QGIS style beside the result.
        layer: name of the layer in a GeoPackage, whose others are kept; None makes a file of its
            own, with the layer called as it.
        overwrite: replace an existing target, or layer.
    """

    format: str | None = None
    output_type: OutputType = "classes"
    creation_options: dict[str, str] = field(default_factory=dict)
    classes: tuple[str, ...] | None = None
    min_area_m2: float | None = None
    simplify_m: float | None = None
    fill_holes_m2: float = 0.0
    style: bool = False
    layer: str | None = None
    overwrite: bool = False

    @property
    def asked_of_polygons(self) -> tuple[str, ...]:
        """Return the options given that shape or choose polygons, as the user spells them."""
        given = {
            "--min-area": self.min_area_m2,
            "--simplify": self.simplify_m is not None,
            "--fill-holes": self.fill_holes_m2,
        }
        return tuple(name for name, is_given in given.items() if is_given)


@dataclass(frozen=True, kw_only=True)
class DetectionOptions:
    """Choice of the boxes that count.

    Args:
        score: boxes with a lower score are dropped; None takes that of each class in ``scores``.
        nms_iou: of boxes of one class that overlap by more the best one stays. None takes 0.1
            within a window and 0.3 between windows, whose boxes of one object differ by more; what
            lies side by side overlaps by less: boxes are oriented.
        max_per_window: boxes that a window may give, the best ones.
        class_ids: classes of the weights that are asked for, set by the task; None asks for all.
        scores: of every class of the weights, set by the task; without, 0.3 for all.
        proposals: places that the weights propose of a window, at each scale; None if unknown.
        agnostic_nms: at last, of boxes of any classes that overlap by more, too.
    """

    score: float | None = None
    nms_iou: float | None = None
    max_per_window: int = 300
    class_ids: tuple[int, ...] | None = None
    proposals: int | None = None
    agnostic_nms: bool = False
    scores: tuple[float, ...] = ()

    @property
    def asked_score(self) -> float | tuple[float, ...]:
        """Return the score from which on a box counts: one for all classes, or one each."""
        return (self.scores or USUAL_SCORE) if self.score is None else self.score

    @property
    def least_score(self) -> float:
        """Return the score below which no box of a class that is asked for counts."""
        score = self.asked_score
        if not isinstance(score, tuple):
            return score
        asked = range(len(score)) if self.class_ids is None else self.class_ids
        return min((score[i] for i in asked), default=USUAL_SCORE)


@dataclass(frozen=True, kw_only=True)
class ChangeOptions:
    """Options of change between two dates.

    Args:
        threshold: pixels count whose score of change is above.
        coregister: undo the shift between the dates before they are compared.
        bidx_after: bands of the second date where they are not those of the first.
        nodata_before, nodata_after: value that means "no data" in one of the dates; None takes
            that of both.
    """

    threshold: float = 0.5
    coregister: bool = False
    bidx_after: tuple[int, ...] | None = None
    nodata_before: float | None = None
    nodata_after: float | None = None


@dataclass(frozen=True, kw_only=True)
class InferenceSettings:
    """All that ``predict`` and its sisters can be told about a run.

    Args:
        dry_run: load no model and write nothing; describe the work instead.
    """

    scene: SceneOptions = SceneOptions()
    reading: ReadingOptions = ReadingOptions()
    tiling: Tiling = Tiling()
    recovery: Recovery = Recovery()
    cluster: ClusterOptions = ClusterOptions()
    runtime: RuntimeOptions = RuntimeOptions()
    output: OutputOptions = field(default_factory=OutputOptions)
    detection: DetectionOptions = DetectionOptions()
    change: ChangeOptions = ChangeOptions()
    dry_run: bool = False
