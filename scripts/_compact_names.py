"""Computes the text features of the names in the compact model's head, and stores them. See `scripts/compact-names`."""

import hashlib

from safetensors.torch import save_file

from segp_cl.models import compact

features = compact.name_features(*compact.text_network(), compact.imagenet_names())
save_file({"features": features.contiguous()}, compact.NAME_FEATURES)
print(hashlib.sha256(compact.NAME_FEATURES.read_bytes()).hexdigest())
