"""A training step on the CPU in fp32 and in bf16: the processor's seconds, and what is learned.

    python benchmarks/bf16_step.py --steps 20

LeMeViT-Tiny with the light UPerNet learns coloured fields, from the same weights and pictures in
both; steps are taken by turns, and counted in seconds of the processor.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
import torch.nn.functional as F

from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.segmenter import build_segmenter, decoder_defaults
from lemevit_cli.models.weights import Card

_CLASSES, _CELLS, _CELL = 5, 16, 8  # fields a side, pixels of a field


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    steps = parser.parse_args().steps
    card = Card(
        task="seg",
        backbone="lemevit_tiny",
        head="upernet",
        head_args=decoder_defaults("upernet"),
        classes=classes_from_names("abcde"),
    )
    draw = torch.Generator().manual_seed(3)
    colours = torch.randint(0, 256, (_CLASSES, 3), generator=draw).float()
    runs = {}
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = build_segmenter(card).train().to(memory_format=torch.channels_last)
        runs[dtype] = (model, torch.optim.AdamW(model.parameters(), 1e-3), [], [])
    for _ in range(steps):
        fields = torch.randint(0, _CLASSES, (2, _CELLS, _CELLS), generator=draw)
        ids = fields.repeat_interleave(_CELL, 1).repeat_interleave(_CELL, 2)
        clean = colours[ids].permute(0, 3, 1, 2)
        pixels = (clean + torch.randn(clean.shape, generator=draw) * 20).clamp(0, 255)
        for dtype, (model, optimizer, seconds, losses) in runs.items():
            start = time.process_time()
            with torch.autocast("cpu", dtype=dtype, enabled=dtype != torch.float32):
                logits = model(pixels)
            loss = F.cross_entropy(logits.float(), ids)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seconds.append(time.process_time() - start)
            losses.append(loss.item())
    for dtype, (_, _, seconds, losses) in runs.items():
        step, end = statistics.median(seconds[1:]), statistics.mean(losses[-5:])
        print(f"{dtype}: {step:.3f} s a step, loss {losses[0]:.3f} at first, {end:.3f} at the end")


if __name__ == "__main__":
    main()
