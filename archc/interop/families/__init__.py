"""The families that can be imported, one a file."""

from archc.interop.families.gpt2 import GPT2
from archc.interop.families.llama import LLAMA
from archc.interop.families.mistral import MISTRAL
from archc.interop.families.mixtral import MIXTRAL
from archc.interop.families.olmo2 import OLMO2
from archc.interop.families.qwen2 import QWEN2
from archc.interop.families.qwen3 import QWEN3
from archc.interop.families.qwen3_moe import QWEN3_MOE
from archc.interop.families.smollm3 import SMOLLM3

FAMILIES = {
    family.model_type: family
    for family in (LLAMA, MISTRAL, MIXTRAL, QWEN2, QWEN3, QWEN3_MOE, SMOLLM3, OLMO2, GPT2)
}
