#!/usr/bin/env bash
# @huggingface/transformers 4.3.2 (transformers.js): without target_sizes, post_process_semantic_segmentation looks for the
# largest logit of each pixel in the memory of the logits themselves and leaves the largest ones in place of those of class 0.
# Whoever computes a confidence map from the same outputs afterwards, or asks again, gets class 0 everywhere, without a word.
# Seen: classes 0, 1, 1 and 2 for four pixels, then 0 for all; the logits of class 0 are 1, 1, 0, 0 before and 1, 3, 2, 5 after.
# With target_sizes, also those of the logits' own size, the map is the same at each call.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --ignore-scripts --no-audit --no-fund @huggingface/transformers@4.3.2
cat > twice.mjs <<'JS'
import assert from "node:assert";
import { SegformerImageProcessor, Tensor } from "@huggingface/transformers";

const values = [1, 1, 0, 0, /* class 1 */ 0, 3, 2, 0, /* class 2 */ 0, 0, 0, 5];
const processor = new SegformerImageProcessor({});
const seen = {};
for (const [name, sizes] of Object.entries({ "no size": null, "own size": [[2, 2]] })) {
  const logits = new Tensor("float32", Float32Array.from(values), [1, 3, 2, 2]);
  const maps = [0, 1].map(() => processor.post_process_semantic_segmentation({ logits }, sizes)[0]);
  seen[name] = { maps: maps.map((map) => [...map.segmentation.data]), classZero: [...logits[0][0].data] };
  console.log(name, JSON.stringify(seen[name]));
}
assert.deepEqual(seen["no size"].maps, [[0, 1, 1, 2], [0, 0, 0, 0]]);
assert.deepEqual(seen["no size"].classZero, [1, 3, 2, 5]);
assert.deepEqual(seen["own size"].maps, [[0, 1, 1, 2], [0, 1, 1, 2]]);
assert.deepEqual(seen["own size"].classZero, [1, 1, 0, 0]);
JS
node twice.mjs
