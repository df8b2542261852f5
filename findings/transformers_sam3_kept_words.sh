#!/bin/sh
# transformers' SAM 3 keeps the features of words for several pictures, as the example in the docstring of
# Sam3Model.get_text_features shows. As shown there (the tensor .pooler_output as text_embeds) it raises AttributeError;
# with the whole object instead and, as shown there, without the mask of the words, it takes the padding for words and
# gives other answers than with the words themselves.
# Exit code 0: as described here; 1: the behaviour has changed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
pip() { "$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }
pip torch==2.13.0
pip numpy==2.4.6 transformers==5.23.0
cat > "$folder/script.py" <<'PY'
import sys

import torch
import transformers
from transformers import Sam3Config, Sam3Model

print("Python", sys.version.split()[0], "torch", torch.__version__, "transformers", transformers.__version__)
torch.manual_seed(0)
small = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64}
backbone = {
    "model_type": "sam3_vit_model", **small, "num_hidden_layers": 2, "image_size": 112, "patch_size": 14,
    "window_size": 4, "global_attn_indexes": [1], "pretrain_image_size": 56,
}
model = Sam3Model(Sam3Config(
    vision_config={"backbone_config": backbone, "fpn_hidden_size": 32, "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]]},
    text_config={"model_type": "clip_text_model", **small, "vocab_size": 514, "projection_dim": 32, "num_hidden_layers": 2,
                 "max_position_embeddings": 32, "bos_token_id": 512, "eos_token_id": 513, "pad_token_id": 513},
    geometry_encoder_config={**small, "num_layers": 1}, detr_encoder_config={**small, "num_layers": 2},
    detr_decoder_config={**small, "num_layers": 2, "num_queries": 8},
    mask_decoder_config={"hidden_size": 32, "num_attention_heads": 2},
)).eval()
for parameter in model.parameters():
    if parameter.ndim > 1:
        torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
ids = torch.tensor([[512, 70, 90, 110, *[513] * 28]])
mask = torch.tensor([[1] * 5 + [0] * 27])
pixels = torch.randn(1, 3, 112, 112)
with torch.inference_mode():
    words = model(pixel_values=pixels, input_ids=ids, attention_mask=mask).pred_logits
    kept = model.get_text_features(input_ids=ids, attention_mask=mask)
    try:
        model(pixel_values=pixels, text_embeds=kept.pooler_output)
        shown = "it answers"
    except AttributeError as error:
        shown = f"AttributeError: {error}"
    whole = model(pixel_values=pixels, text_embeds=kept, attention_mask=mask).pred_logits
    unmasked = model(pixel_values=pixels, text_embeds=kept).pred_logits
print("as the example has it       expected: an answer; seen:", shown)
apart = [float((each - words).abs().max()) for each in (whole, unmasked)]
print(f"the object, with the mask    expected: 0 from the words; seen: {apart[0]:.2g}")
print(f"the object, without the mask expected: an error, or 0; seen: {apart[1]:.2g}, in silence")
same = shown.startswith("AttributeError") and apart[0] < 1e-5 and apart[1] > 1e-3
sys.exit(0 if same else "The behaviour has changed.")
PY
"$folder/venv/bin/python" "$folder/script.py"
