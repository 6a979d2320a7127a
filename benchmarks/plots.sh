#!/usr/bin/env bash
# The pictures of docs/plots.md: short runs on generated streets, and one plot of each kind.
#
#     bash benchmarks/plots.sh FOLDER      (data, runs and plots go there; about ten minutes on one quiet core)
#
# What is already there is kept: start it again to go on.
set -euo pipefail
mkdir -p "$1"
cd "$1"

cat > streets.yaml <<YAML
name: supervised
data: {root: streets, labeled: 16-labeled, unlabeled: 16-unlabeled}
model: {architecture: deeplabv3plus, encoder: tu-tf_efficientnet_lite0, weights: imagenet, decoder_channels: 64}
view: {crop: [96, 128], scale: [0.9, 1.5]}
method: {name: supervised, class_balance: 0.2, dice_weight: 1.0}
optimizer: {name: adamw, lr: 0.0005, head_lr_factor: 5, weight_decay: 0.01}
schedule: {steps: 120, warmup: 15}
batch_size: 4
evaluate_every: 120
threads: 1
YAML
LOSS="class_balance: 0.2, dice_weight: 1.0"
FEATURE="features: -1, feature_loss: mean"
SHORT=(schedule.steps=60 schedule.warmup=5 evaluate_every=60 model.weights=null optimizer.head_lr_factor=1)
STUDENT=("${SHORT[@]}" data.labeled=train model.encoder=tu-resnet10t)
VIT=("${SHORT[@]}" schedule.steps=30 evaluate_every=30 model.architecture=setr model.encoder=tu-vit_tiny_patch16_224)

trained() { # name, overrides
    [ -f "runs/$1/report.json" ] || semseg train streets.yaml "name=$1" "${@:2}"
}

[ -d streets ] || semseg data generate streets --train 128 --val 32 --size 96x128 --labeled 16
trained supervised
trained pseudoseg "method={name: pseudoseg, ramp_up: 30, cutout_size: 24, $LOSS}"
TEACHER="name: distillation, teacher: runs/pseudoseg/best, kd: null, $LOSS"
trained mgd "${STUDENT[@]}" "method={$TEACHER, mgd: {weight: 33, logit_weight: 0, $FEATURE}}"
trained af_dcd "${STUDENT[@]}" "method={$TEACHER, af_dcd: {pool_size: 0, patch_size: 2, $FEATURE}}"
trained vit-supervised "${VIT[@]}"
trained vit-s4former "${VIT[@]}" \
    "method={name: s4former, ramp_up: 5, threshold: 0.8, shuffle_block: 32, reduction: valid, $LOSS}"

semseg plot features runs/supervised runs/pseudoseg --data streets --points 1000 -o features.png
semseg plot panels runs/supervised runs/pseudoseg --data streets -o panels.png
semseg plot pseudo-labels runs/pseudoseg --photos 3 -o pseudo-labels.png
semseg plot calibration runs/pseudoseg -o calibration.png
semseg plot distances runs/mgd runs/af_dcd --photos 32 -o distances.png
PHOTO=$(printf '%s\n' streets/images/val/* | head -1)
semseg plot attention runs/vit-supervised runs/vit-s4former --photo "$PHOTO" --at 40,66 -o attention.png
semseg plot attention runs/vit-s4former --photo "$PHOTO" --at 40,66 --shuffle 32 -o attention-shuffled.png
