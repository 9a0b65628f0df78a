#!/bin/sh
# Teaches LeMeViT-Tiny what a larger network sees, on pictures without labels.
#
#   examples/pretrain.sh TEACHER TEACHER_MODEL DATA...
#
# TEACHER is a file of weights of the timm model TEACHER_MODEL, such as vit_small_patch14_dinov2; DATA are
# folders of pictures, scenes, or .toml lists. An interrupted run goes on when the script is started again.
# STEPS and CACHE_GB (how many windows: 0.4 MB each) make it shorter.
set -eu
teacher=${1:?usage: examples/pretrain.sh TEACHER TEACHER_MODEL DATA...}
model=${2:?name the timm model of the teacher}
shift 2
work=${WORK:-pretrain_work}
mkdir -p "$work"
# From noise, not from earlier weights: after as many steps that was ahead (docs/weights.md).
lemevit pretrain "$@" --teacher "$teacher" --teacher-model "$model" \
    --backbone lemevit_tiny --steps "${STEPS:-6000}" --cache-gb "${CACHE_GB:-5}" --precision bf16 \
    --checkpoint-every 10m --half --resume --overwrite -o "$work/backbone.safetensors"
