"""The engine on this machine, and the only door to it: other packages import from here.

Importing it takes seconds, for it brings torch and transformers.

Four modules replace methods of a loaded model, here and in `trainer/passes`. This is the order in
which they may meet:

- Serving: `PackedLinears` (`onednn_weights`) replaces `forward` of linear modules for good. A
  packed model is never trained, so none of the other three may meet it.
- Training: 1. `attend_by_matrix_products` (`training_attention`), once after loading.
  2. `frozen_layers_once` (`activation_cache`) replaces `forward` of the lower layers around all
  stages and restores it. 3. PEFT wraps the linear modules of the upper layers. 4. Each stage calls
  `score_replies_only` (`reply_only_head`) after TRL has prepared the model. It starts from the
  class's own `forward`, so calling it again replaces it and does not stack.
"""

from bot.engine.local.attention import additive_mask, matmul_attention
from bot.engine.local.batch import Batch, prefill_shared_prefix
from bot.engine.local.cache import new_cache
from bot.engine.local.local_engine import LocalEngine
from bot.engine.local.merged_weights import MergedWeights
from bot.engine.local.onednn_weights import multiplies_bf16
from bot.engine.local.step import LLAMA_SHAPED, has_full_attention, last_positions
from bot.engine.local.weights import Weights, choose_device, load_weights

__all__ = [
    "LLAMA_SHAPED",
    "Batch",
    "LocalEngine",
    "MergedWeights",
    "Weights",
    "additive_mask",
    "choose_device",
    "has_full_attention",
    "last_positions",
    "load_weights",
    "matmul_attention",
    "multiplies_bf16",
    "new_cache",
    "prefill_shared_prefix",
]
