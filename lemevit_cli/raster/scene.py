"""A scene: one georeferenced raster, opened and read window by window through rasterio."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import MaskFlags
from rasterio.errors import CRSError
from rasterio.rpc import RPC
from rasterio.transform import GCPTransformer
from rasterio.windows import Window as RasterioWindow

from lemevit_cli.errors import SceneError, cause_of, reading
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import is_tied_to_earth, lengths_m, pixel_area_m2
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.bands import choose_bands
from lemevit_cli.raster.network import is_alone
from lemevit_cli.raster.source import Source, Warp, WarpResampling
from lemevit_cli.raster.validity import as_dtype, is_colour, nodata_by_band, valid_pixels
from lemevit_cli.raster.validity_vrt import validity_vrt
from lemevit_cli.settings import SceneOptions

_NAMED_SUBDATASETS = 8
_IS_ALONE = (
    "its server answers to any name, so no overviews, masks or other files beside it are looked for"
)
_RPC_COEFFICIENTS = 20  # of each polynomial
_SHORTEST_STEP = 1e-12  # map units; of a degree, a ten-thousandth of a millimetre
_LONGEST_STEP = 1e9  # map units from one pixel to the next: a turn round the globe in inches


def open_scene(path: str, options: SceneOptions | None = None) -> Scene:
    """Open a raster: a path, anything else that GDAL opens, or ``-`` for stdin.

    Raises:
        SceneError: if it cannot be opened, has no bands, or ``options`` do not fit it.
    """
    source = Source(os.fspath(path))
    try:
        scene = Scene(source, options or SceneOptions())
        bound_block_cache(scene)
    except BaseException:
        source.close()
        raise
    return scene


def bound_block_cache(scene: Scene) -> None:
    """Keep GDAL's block cache, 5 % of the machine's memory by default, to what windows need.

    Two rows of windows: fewer, and a file of full-width strips is decoded again for each window of
    a row. GDAL asks once a process, at its first read: the first scene that is opened decides, by
    the environment, so that worker processes do as this one. A user's own GDAL_CACHEMAX wins.
    """
    if "GDAL_CACHEMAX" in os.environ:
        return
    dataset = scene.dataset()
    row_bytes = dataset.width * dataset.count * np.dtype(scene._reading.dtype).itemsize
    is_striped = dataset.block_shapes[0][1] >= dataset.width
    rows = 1024 if is_striped else 512
    megabytes = min(max(row_bytes * rows // 2**20, 64), 512)
    os.environ["GDAL_CACHEMAX"] = str(megabytes)


@dataclass(frozen=True)
class _Reading:
    """Plan of a reading: from the bands of the file to pixels and a valid mask."""

    bands: tuple[int, ...]  # each once, as GDAL reads them
    picks: tuple[int, ...]  # the scene's bands among them
    alpha: int | None
    masked_bands: tuple[int, ...]  # bands whose mask GDAL keeps apart from the pixels
    nodata: tuple[float | None, ...]  # of each of ``bands``
    dtype: str  # holds the numbers of all ``bands``
    is_mixed: bool  # whether the bands and alpha differ in dtype
    scales: tuple[float, ...]  # of each of ``bands``
    offsets: tuple[float, ...]

    @property
    def is_scaled(self) -> bool:
        return any(s != 1 for s in self.scales) or any(o != 0 for o in self.offsets)


AS_GROUND = SceneOptions(expand_palette=True)


def open_ground(path: str) -> Scene:
    """Open a file that shows the ground: a palette is read as its colours.

    Raises:
        SceneError: as :func:`open_scene`.
    """
    return open_scene(path, AS_GROUND)


class Scene:
    """One raster as the program sees it: size, bands, georeference, pixels with a valid mask.

    Use :func:`open_scene`, and the scene as a context manager. Any thread may read. A pickled scene
    opens its file anew where it is unpickled.

    Attributes:
        path: as the user gave it.
        name: what messages call it (the path, or ``stdin``).
        stem: the name without folder and suffix, for names of results.
        width, height: in pixels.
        bidx: the chosen bands, counted from 1; one may repeat.
        dtype: numpy name of what :meth:`read` gives: the file's, or float32 (float64 where 32 bits
            are too few) if the file states a scale or an offset.
        georeference: exactly as the file states it.
        gsd_m: metres on the ground at the scene's centre, the side of a square pixel of the same
            area; None where the scene is not tied to the earth.
        pixel_sides_m: metres on the ground along a row and along a column, there; None likewise.
        warnings: what a user should know, a line each.
        band_warnings: those among them on what the pixels are, whatever their place.
    """

    def __init__(self, source: Source, options: SceneOptions) -> None:
        self._source = source
        with source.failures("cannot be understood as a raster"):
            self._describe(source, source.handle(), options)

    def _describe(self, source: Source, dataset: Any, options: SceneOptions) -> None:
        _refuse_containers(dataset, source.name)
        choice = choose_bands(
            dataset, options.bidx, name=source.name, expand_palette=options.expand_palette
        )

        self.path, self.name, self.stem = source.path, source.name, source.stem
        self.width, self.height = dataset.width, dataset.height
        self.bidx = choice.bidx
        self.num_bands = len(choice.bidx)
        stated = _read_georeference(dataset, options, name=source.name)
        stated, incomplete = _without_incomplete_rpcs(stated)
        self.georeference, useless = _without_useless_points(stated, source.name)
        self.gsd_m = _gsd_at_centre(self.georeference, self.width, self.height)
        self.pixel_sides_m = _pixel_sides(self.georeference, self.width, self.height)
        self.band_warnings = choice.warnings
        of_place = _georeference_warnings(self.georeference, self.gsd_m)
        alone = [_IS_ALONE] if is_alone(source.file) else []
        self.warnings = (*choice.warnings, *incomplete, *useless, *of_place, *alone)
        self._reading = _plan_reading(dataset, choice.bidx, choice.alpha, options.nodata)
        self._palette = choice.palette
        self.dtype = _scaled_dtype(self._reading) if choice.palette is None else "uint8"

    @property
    def files(self) -> tuple[str, ...]:
        """Return what GDAL opens, ``-`` for stdin."""
        return (self.path,)

    @property
    def window(self) -> Window:
        """Return the whole scene."""
        return Window(col_off=0, row_off=0, width=self.width, height=self.height)

    @property
    def orientation(self) -> int:
        """Return how EXIF says that pixels are to be shown: 1, as they are stored, to 8."""
        # GDAL reads pictures as they are stored.
        with reading(self.name, "its tags cannot be read"):
            tag = str(self.dataset().tags().get("EXIF_Orientation", "1"))
        return int(tag) if tag in set("12345678") else 1

    @property
    def nodata(self) -> tuple[float | None, ...]:
        """Return the value that means "no data", of each chosen band; None where none is stated."""
        return tuple(self._reading.nodata[i] for i in self._reading.picks)

    @property
    def nodata_as_read(self) -> tuple[float | None, ...]:
        """Return the same as :meth:`read` gives it; None also where a band cannot hold it."""
        reading = self._reading
        if self._palette is not None:  # an index is no colour
            return (None,) * self.num_bands
        numbers: list[float | None] = [None] * len(reading.bands)
        for i, value in enumerate(reading.nodata):
            number = None if value is None else as_dtype(value, np.dtype(reading.dtype))
            if number is not None:
                raw = np.full((len(reading.bands), 1, 1), number)
                scaled = _scale(raw, reading, self.dtype) if reading.is_scaled else raw
                numbers[i] = scaled[i, 0, 0].item()
        return tuple(numbers[i] for i in reading.picks)

    @property
    def mask_kind(self) -> str:
        """Name what can make a pixel nodata: any of nodata, alpha, mask and nan, or none."""
        reading = self._reading
        kinds = {
            "nodata": any(v is not None for v in reading.nodata),
            "alpha": reading.alpha is not None,
            "mask": bool(reading.masked_bands),
            "nan": np.issubdtype(np.dtype(reading.dtype), np.floating),
        }
        return "+".join(kind for kind, there in kinds.items() if there) or "none"

    def dataset(self) -> Any:
        """Return the calling thread's rasterio dataset, for what this class does not tell."""
        return self._source.handle()

    def read(self, window: Window) -> tuple[NDArray, NDArray[np.bool_]]:
        """Read a window at full resolution.

        Returns:
            Pixels ``(bands, H, W)`` in :attr:`dtype`, and where they are valid ``(H, W)``, which
            may be a read-only view. Nodata pixels keep the file's number.

        Raises:
            SceneError: if the file cannot be read there.
            ValueError: if the window leaves the scene.
        """
        raw, valid = self._read_raw(window, (window.height, window.width))
        return self._pick(raw), valid

    def read_overview(
        self, max_side: int, *, window: Window | None = None
    ) -> tuple[NDArray, NDArray[np.bool_]]:
        """Read the whole scene (or ``window``) in one go, no side longer than ``max_side``.

        Pixels are picked, not averaged, so that each is a number of the file (or of its own
        overviews) and validity keeps its meaning. Otherwise as :meth:`read`.
        """
        window = window or self.window
        raw, valid = self._read_raw(window, _overview_shape(window, max_side))
        return self._pick(raw), valid

    def read_overview_by_band(
        self, max_side: int, *, window: Window | None = None
    ) -> tuple[NDArray, NDArray[np.bool_]]:
        """Read as :meth:`read_overview`, with a mask of each band ``(bands, H, W)``.

        A band is nodata, too, where it alone holds its nodata value.
        """
        window = window or self.window
        raw, valid = self._read_raw(window, _overview_shape(window, max_side), complete=False)
        by_band = valid & ~nodata_by_band(raw, self._reading.nodata)
        return self._pick(raw), by_band[list(self._reading.picks)]

    def _read_raw(
        self, window: Window, shape: tuple[int, int], *, complete: bool = True
    ) -> tuple[NDArray, NDArray[np.bool_]]:
        """Read each band once, in the file's numbers, and where pixels are valid ``(H, W)``.

        ``complete`` as of :func:`valid_pixels`.
        """
        if self.window.intersection(window) != window:
            raise ValueError(f"{window} leaves {self.name} of {self.width} x {self.height} pixels")
        reading = self._reading
        bands = reading.bands if reading.alpha is None else (*reading.bands, reading.alpha)
        place = RasterioWindow(window.col_off, window.row_off, window.width, window.height)
        where = {"window": place, "out_shape": shape}
        dataset = self._source.handle()
        with self._source.failures(f"cannot read {_describe(window)}"):
            if reading.is_mixed:  # rasterio reads bands of one dtype at a time
                raw = np.stack([dataset.read(b, out_dtype=reading.dtype, **where) for b in bands])
            else:
                raw = dataset.read(bands, **where)
            masks = (
                dataset.read_masks(reading.masked_bands, **where) if reading.masked_bands else None
            )
        pixels = raw[: len(reading.bands)]
        valid = valid_pixels(pixels, reading.nodata, complete=complete)
        if reading.alpha is not None:
            valid = _both(valid, raw[-1] > 0)
        if masks is not None:
            valid = _both(valid, masks.any(axis=0))
        if self._palette is not None:
            valid = _both(valid, self._palette[pixels[0], 3] > 0)
        if valid is None:
            valid = np.broadcast_to(np.True_, shape)
        return pixels, valid

    def _pick(self, raw: NDArray) -> NDArray:
        """Pick the scene's bands, scaled, from what was read of the file."""
        reading = self._reading
        if self._palette is not None:
            return np.moveaxis(self._palette[raw[0], :3], -1, 0)
        pixels = _scale(raw, reading, self.dtype) if reading.is_scaled else raw
        if reading.picks == tuple(range(len(reading.bands))):
            return pixels
        return pixels[list(reading.picks)]

    def of_bands(self, bidx: tuple[int, ...]) -> Scene:
        """Return the same raster with some of its bands; closing one closes both."""
        return Scene(self._source, SceneOptions(bidx=bidx))

    def on_grid(
        self,
        georeference: Georeference,
        *,
        width: int,
        height: int,
        resampling: WarpResampling,
        turn: float | None = None,
    ) -> Scene:
        """Put the raster on another grid, through GDAL's warper as windows are read.

        Nodata pixels give nothing to those around them; a pixel is nodata where the one under its
        centre is, or lies beyond the raster. It reads through this scene: close this one last.

        Args:
            turn: map units to the east that the raster is moved by first, round the globe; None,
                other than 0, says that the grid does not cross the edge of the world.
        """
        reading, dataset = self._reading, self.dataset()
        if self._palette is not None:
            raise SceneError(
                f"{self.name}: holds palette indexes, which cannot be resampled; expand it first: "
                f"gdal_translate -expand rgb {self.path} {self.stem}_rgb.tif"
            )
        warp = Warp(
            transform=georeference.transform or Affine.identity(),
            crs_wkt=georeference.crs_wkt,
            width=width,
            height=height,
            resampling=resampling,
            src_crs_wkt=self.georeference.crs_wkt,
            src_nodata=_usable_nodata(reading),
        )
        if turn is not None and self.georeference.transform is not None:
            moved = Affine.translation(turn, 0) @ self.georeference.transform
            warp = replace(warp, src_transform=moved)
        if not _warper_knows_validity(reading, dataset.count):
            vrt = validity_vrt(
                dataset,
                self._source.file,
                bands=reading.bands,
                nodata=reading.nodata,
                alpha=reading.alpha,
                masked_bands=reading.masked_bands,
            )
            warp = replace(warp, src_nodata=None, src_vrt=vrt)
        return Scene(self._source.on_grid(warp), SceneOptions(bidx=self.bidx))

    def check_unchanged(self) -> None:
        """Refuse a file that has changed since it was opened.

        Raises:
            SceneError: naming it.
        """
        self._source.check_unchanged()

    def close(self) -> None:
        """Close the file in all threads."""
        self._source.close()

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return (
            f"Scene({self.name!r}, {self.width} x {self.height}, bands {self.bidx}, {self.dtype})"
        )


def _refuse_containers(dataset: Any, name: str) -> None:
    if dataset.count > 0:
        return
    inner = dataset.subdatasets
    if not inner:
        raise SceneError(f"{name}: holds no raster bands")
    more = f" and {len(inner) - _NAMED_SUBDATASETS} more" if len(inner) > _NAMED_SUBDATASETS else ""
    raise SceneError(
        f"{name}: holds {len(inner)} subdatasets and no bands of its own; "
        f"name one of them: {', '.join(inner[:_NAMED_SUBDATASETS])}{more}"
    )


def _plan_reading(
    dataset: Any, bidx: tuple[int, ...], alpha: int | None, nodata: float | None
) -> _Reading:
    bands = tuple(dict.fromkeys(bidx))
    # Once: rasterio asks GDAL for all bands at each access, and there may be thousands.
    nodata_of, dtype_of = dataset.nodatavals, dataset.dtypes
    scale_of, offset_of = dataset.scales, dataset.offsets
    place_of = {band: i for i, band in enumerate(bands)}
    declared = tuple(nodata_of[b - 1] if nodata is None else nodata for b in bands)
    dtypes = {dtype_of[b - 1] for b in (*bands, *([] if alpha is None else [alpha]))}
    return _Reading(
        bands=bands,
        picks=tuple(place_of[b] for b in bidx),
        alpha=alpha,
        masked_bands=_bands_with_mask(dataset, bands, is_nodata_stated=nodata is not None),
        nodata=declared,
        dtype=str(np.result_type(*{dtype_of[b - 1] for b in bands})),
        is_mixed=len(dtypes) > 1,
        scales=tuple(scale_of[b - 1] for b in bands),
        offsets=tuple(offset_of[b - 1] for b in bands),
    )


def _bands_with_mask(
    dataset: Any, bands: tuple[int, ...], *, is_nodata_stated: bool
) -> tuple[int, ...]:
    """List bands whose mask is neither alpha nor their nodata value: a mask band or a .msk."""
    own = {MaskFlags.all_valid, MaskFlags.alpha, MaskFlags.nodata}
    # NODATA_VALUES, a tuple for all bands, is the one nodata that GDAL keeps in the mask alone.
    if not is_nodata_stated and "NODATA_VALUES" in dataset.tags():
        own = {MaskFlags.all_valid, MaskFlags.alpha}
    flags_of = dataset.mask_flag_enums
    flags = {b: set(flags_of[b - 1]) for b in bands}
    masked = tuple(b for b in bands if not flags[b] & own)
    shared = [b for b in masked if MaskFlags.per_dataset in flags[b]]
    return (shared[0],) if shared and len(shared) == len(bands) else masked


def _usable_nodata(reading: _Reading) -> float | None:
    """Return the nodata value of the first band, None where its type cannot hold it."""
    nodata = reading.nodata[0]
    can_be = nodata is not None and as_dtype(nodata, np.dtype(reading.dtype)) is not None
    return nodata if can_be else None


def _warper_knows_validity(reading: _Reading, bands_of_file: int) -> bool:
    """Say whether GDAL's warper finds out by itself which pixels of the file are valid.

    It asks one statement alone, alpha, else nodata, else a mask; compares all bands of the file
    with one nodata value; and takes a NaN beside these for a number.
    """
    if np.issubdtype(np.dtype(reading.dtype), np.floating):
        return False
    has_nodata = any(value is not None for value in reading.nodata)
    if not has_nodata:
        return reading.alpha is None or not reading.masked_bands
    dtype = np.dtype(reading.dtype)
    holds_gaps = any(
        v is not None and not is_colour(v) and as_dtype(v, dtype) is not None
        for v in reading.nodata
    )
    if holds_gaps and len(reading.bands) > 1:  # it asks for the value in all bands
        return False
    is_alone = reading.alpha is None and not reading.masked_bands
    return is_alone and len(set(reading.nodata)) == 1 and len(reading.bands) == bands_of_file


def _scaled_dtype(reading: _Reading) -> str:
    if not reading.is_scaled:
        return reading.dtype
    return "float32" if np.can_cast(reading.dtype, np.float32) else "float64"


def _scale(pixels: NDArray, reading: _Reading, dtype: str) -> NDArray:
    scales = np.array(reading.scales, dtype)[:, None, None]
    return pixels.astype(dtype) * scales + np.array(reading.offsets, dtype)[:, None, None]


def _overview_shape(window: Window, max_side: int) -> tuple[int, int]:
    shrink = max(1.0, max(window.width, window.height) / max_side)
    return max(1, round(window.height / shrink)), max(1, round(window.width / shrink))


def _both(valid: NDArray[np.bool_] | None, also: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return also if valid is None else valid & also


def _describe(window: Window) -> str:
    return (
        f"columns {window.col_off} to {window.right - 1}, "
        f"rows {window.row_off} to {window.bottom - 1}"
    )


def _read_georeference(dataset: Any, options: SceneOptions, *, name: str) -> Georeference:
    gcps, gcps_crs = dataset.gcps
    transform = None if dataset.transform.is_identity else dataset.transform
    if transform is not None:
        _check_transform(transform, name)
    crs = dataset.crs
    named = options.src_crs
    if named is None and not (crs or gcps_crs):
        named = options.missing_crs
    if named is not None:
        stated = _parse_crs(named, name)
        # Where points alone tie the picture to the map, the CRS is theirs.
        crs, gcps_crs = (crs, stated) if gcps and transform is None else (stated, gcps_crs)
    return Georeference(
        transform=transform,
        crs_wkt=_wkt(crs),
        gcps=tuple((p.row, p.col, p.x, p.y, p.z, p.id, p.info) for p in gcps),
        gcps_crs_wkt=_wkt(gcps_crs),
        rpcs=dataset.tags(ns="RPC"),
        area_or_point=dataset.tags().get("AREA_OR_POINT"),
    )


def _check_transform(transform: Affine, name: str) -> None:
    """Refuse a transform that gives pixels no place, or all of them one.

    Raises:
        SceneError: naming it.
    """
    steps = np.array([transform.a, transform.b, transform.d, transform.e])
    area, sides = float(transform.determinant), np.hypot(steps[:2], steps[2:])
    is_good = np.isfinite([*sides, transform.c, transform.f, area]).all() and area != 0
    if not is_good or sides.max() > _LONGEST_STEP or sides.min() < _SHORTEST_STEP:
        raise SceneError(
            f"{name}: its transform {transform.to_gdal()} gives its pixels no place on a map; "
            "state another with gdal_edit.py -a_ullr, or take it away with -unsetgt"
        )


def _without_useless_points(
    georeference: Georeference, name: str
) -> tuple[Georeference, tuple[str, ...]]:
    """Leave out ground control points that place nothing, with a line that tells of it."""
    if georeference.transform is not None or not georeference.gcps:
        return georeference, ()
    points = [GroundControlPoint(*point[:5]) for point in georeference.gcps]
    try:
        with reading(name), GCPTransformer(points) as transformer:
            places = np.array(transformer.xy([0, 1, 0], [0, 0, 1]))
        reason = "" if np.isfinite(places).all() else "they are not finite"
    except SceneError as error:
        reason = cause_of(error.__cause__ or error)
    if not reason:
        return georeference, ()
    line = f"its ground control points ({len(points)}) place nothing and are left out ({reason})"
    return replace(georeference, gcps=(), gcps_crs_wkt=None), (line,)


def _without_incomplete_rpcs(georeference: Georeference) -> tuple[Georeference, tuple[str, ...]]:
    """Leave out RPCs that lack a number, with a line that tells of it."""
    if not georeference.rpcs:
        return georeference, ()
    try:
        lacks_one = any(
            len(value) < _RPC_COEFFICIENTS
            for value in RPC.from_gdal(dict(georeference.rpcs)).to_dict().values()
            if isinstance(value, list)
        )
    except (LookupError, ValueError):
        lacks_one = True
    if not lacks_one:
        return georeference, ()
    return replace(georeference, rpcs={}), ("its RPCs lack numbers and are left out",)


def _parse_crs(text: str, name: str) -> CRS:
    reason = "empty"
    try:
        crs = CRS.from_user_input(text)
    except (CRSError, ValueError) as error:
        crs, reason = None, " ".join(str(error).split())
    if not crs:
        raise SceneError(
            f"{name}: --src-crs {text!r} is no CRS ({reason}); write it as EPSG:32633 or WKT"
        )
    return crs


def _wkt(crs: Any) -> str | None:
    return crs.to_wkt(version="WKT2_2019") if crs else None


def _gsd_at_centre(georeference: Georeference, width: int, height: int) -> float | None:
    area = pixel_area_m2(georeference, col=width / 2, row=height / 2)
    return None if area is None or area == 0 else float(area**0.5)


def _pixel_sides(georeference: Georeference, width: int, height: int) -> tuple[float, float] | None:
    transform, crs_wkt = georeference.transform, georeference.crs_wkt
    if transform is None or not is_tied_to_earth(crs_wkt):
        return None
    col, row = width / 2, height / 2
    corner = transform @ (col, row)
    ends = [transform @ (col + 1, row), transform @ (col, row + 1)]
    along_row, along_col = lengths_m([corner, corner], ends, crs_wkt)
    known = along_row > 0 and along_col > 0
    return (float(along_row), float(along_col)) if known else None


def _georeference_warnings(georeference: Georeference, gsd_m: float | None) -> list[str]:
    if georeference.transform is None:
        if georeference.gcps:
            return [
                f"has {len(georeference.gcps)} ground control points and no transform: its pixels "
                "have no known size on the ground; polygons are placed by the points, bounds are "
                "pixels"
            ]
        if georeference.rpcs:
            what = "RPCs and no transform"
        elif georeference.crs_wkt:
            what = "a CRS and no transform"
        else:
            what = "no georeference"
        return [f"has {what}: processed in pixels, without areas or lengths in metres"]
    if georeference.crs_wkt is None:
        return [
            "has no CRS: the transform is kept, areas and lengths in metres are unknown; "
            "--src-crs states one"
        ]
    if not is_tied_to_earth(georeference.crs_wkt):
        return ["its CRS is local, not tied to the earth: areas and lengths in metres are unknown"]
    if gsd_m is None:
        return ["its centre lies outside its CRS's domain: areas in metres are unknown there"]
    return []
