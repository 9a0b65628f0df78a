#!/bin/sh
# Teaches LeMeViT-Tiny what a larger network sees, on pictures without labels.
#
#   examples/pretrain.sh TEACHER TEACHER_MODEL DATA...
#
# TEACHER is a file of weights of the timm model TEACHER_MODEL, such as vit_small_patch14_dinov2; DATA are
# folders of pictures, scenes, or .toml lists. An interrupted run goes on when the script is started again.
set -eu
teacher=${1:?usage: examples/pretrain.sh TEACHER TEACHER_MODEL DATA...}
model=${2:?name the timm model of the teacher}
shift 2
work=${WORK:-pretrain_work}
mkdir -p "$work"
resume=
[ -f "$work/backbone_training/checkpoint.pt" ] && resume=--resume
# From noise, not from earlier weights: after as many steps that was ahead (docs/weights.md).
lemevit pretrain "$@" --teacher "$teacher" --teacher-model "$model" \
    --backbone lemevit_tiny --steps "${STEPS:-6000}" --cache-gb 5 --precision bf16 \
    --checkpoint-every 10m --half --overwrite $resume -o "$work/backbone.safetensors"
