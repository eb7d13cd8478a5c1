"""The families that can be imported, one a file."""

from archc.interop.families.bloom import BLOOM
from archc.interop.families.cohere import COHERE, COHERE2
from archc.interop.families.deepseek_v2 import DEEPSEEK_V2
from archc.interop.families.deepseek_v3 import (
    DEEPSEEK_V3,
    DEEPSEEK_V32,
    GLM4_MOE_LITE,
    KIMI_K2,
    SARVAM_MLA,
)
from archc.interop.families.ernie4_5 import ERNIE4_5
from archc.interop.families.exaone4 import EXAONE4
from archc.interop.families.gemma import GEMMA
from archc.interop.families.gemma2 import GEMMA2
from archc.interop.families.gemma3 import GEMMA3
from archc.interop.families.glm4 import GLM4
from archc.interop.families.glm4_moe import DOTS1, GLM4_MOE, SOLAR_OPEN
from archc.interop.families.gpt2 import GPT2
from archc.interop.families.gpt_neox import GPT_NEOX
from archc.interop.families.gpt_oss import GPT_OSS
from archc.interop.families.granite import GRANITE
from archc.interop.families.lfm2 import LFM2
from archc.interop.families.like_llama import INTERNLM3, IQUESTCODER
from archc.interop.families.like_smollm3 import CWM, MINISTRAL
from archc.interop.families.llama import LLAMA
from archc.interop.families.llama4 import LLAMA4
from archc.interop.families.mamba2 import MAMBA2
from archc.interop.families.marian import MARIAN
from archc.interop.families.minimax_m2 import MINIMAX_M2
from archc.interop.families.ministral3 import MINISTRAL3
from archc.interop.families.mistral import MISTRAL
from archc.interop.families.mixtral import MIXTRAL
from archc.interop.families.olmo2 import OLMO2, OLMO3
from archc.interop.families.phi3 import PHI3
from archc.interop.families.qwen2 import QWEN2
from archc.interop.families.qwen2_moe import QWEN2_MOE
from archc.interop.families.qwen2_vl import QWEN2_5_VL, QWEN2_VL
from archc.interop.families.qwen3 import QWEN3
from archc.interop.families.qwen3_5 import QWEN3_5, QWEN3_5_MOE
from archc.interop.families.qwen3_moe import QWEN3_MOE
from archc.interop.families.qwen3_next import QWEN3_NEXT
from archc.interop.families.qwen3_vl import QWEN3_VL, QWEN3_VL_MOE
from archc.interop.families.recurrent_gemma import RECURRENT_GEMMA
from archc.interop.families.seed_oss import SEED_OSS
from archc.interop.families.smollm3 import SMOLLM3
from archc.interop.families.starcoder2 import STARCODER2
from archc.interop.families.switch_transformers import SWITCH_TRANSFORMERS
from archc.interop.families.t5 import T5
from archc.interop.families.youtu import YOUTU

FAMILIES = {
    family.model_type: family
    for family in (
        LLAMA,
        INTERNLM3,
        IQUESTCODER,
        ERNIE4_5,
        LLAMA4,
        MINIMAX_M2,
        MISTRAL,
        MINISTRAL3,
        MIXTRAL,
        QWEN2,
        QWEN2_VL,
        QWEN2_5_VL,
        SEED_OSS,
        QWEN3,
        QWEN3_VL,
        QWEN2_MOE,
        QWEN3_MOE,
        QWEN3_VL_MOE,
        QWEN3_NEXT,
        QWEN3_5,
        QWEN3_5_MOE,
        MAMBA2,
        RECURRENT_GEMMA,
        SMOLLM3,
        MINISTRAL,
        CWM,
        OLMO2,
        OLMO3,
        PHI3,
        GRANITE,
        GEMMA,
        GEMMA2,
        GEMMA3,
        COHERE,
        COHERE2,
        STARCODER2,
        EXAONE4,
        LFM2,
        GPT2,
        GPT_NEOX,
        BLOOM,
        GPT_OSS,
        DEEPSEEK_V2,
        DEEPSEEK_V3,
        DEEPSEEK_V32,
        KIMI_K2,
        GLM4_MOE_LITE,
        SARVAM_MLA,
        YOUTU,
        GLM4,
        GLM4_MOE,
        SOLAR_OPEN,
        DOTS1,
        MARIAN,
        T5,
        SWITCH_TRANSFORMERS,
    )
}
