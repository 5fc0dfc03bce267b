"""Where a release of transformers itself differs; 4.57 is the truth."""

import transformers

# The tokenizer of 5.x splits text after a special token differently, and Llama-2's template has "<s>[INST] " inside.
# The reference keeps the ids of 4.57, so the prompt stage says that the port's differ. Vicuna's prompt is equal.
LLAMA2_PROMPT_DIFFERS = int(transformers.__version__.split(".")[0]) >= 5
