/* kinds.c: the table of adapter kinds, and what they adapt by default. */
#include <string.h>

#include "adapters/internal.h"

/* Every kind, one line each: KIND(name) stands for `const cb_adapter_kind cb_kind_name`, in a file of its own. */
/* clang-format off */
#define KINDS(KIND) \
    KIND(lora) KIND(ia3) KIND(trainable_tokens) KIND(loha) KIND(lokr) KIND(vera) KIND(fourierft) KIND(hra) \
    KIND(prompt_tuning) KIND(p_tuning) KIND(prefix_tuning) KIND(multitask_prompt_tuning) KIND(adaption_prompt) \
    KIND(ln_tuning) KIND(bitfit) KIND(beft) KIND(shira) KIND(hira) KIND(miss) KIND(c3a) KIND(road) \
    KIND(delora) KIND(bottleneck) KIND(reft) KIND(hydra) KIND(lora_xs) KIND(orthogonal_adaptation) KIND(pego) \
    KIND(codyra) KIND(dylora) KIND(lt_sft) KIND(oft) KIND(boft) KIND(randlora) KIND(vblora) KIND(adalora) KIND(poly) \
    KIND(mtlora) KIND(petalface) KIND(s3diff) KIND(krona) KIND(mora) KIND(gdcan)
/* clang-format on */

#define DECLARE(name) extern const cb_adapter_kind cb_kind_##name;
KINDS(DECLARE)

#define ADDRESS(name) &cb_kind_##name,
static const cb_adapter_kind *const kinds[] = {KINDS(ADDRESS) NULL};

/* peft/utils/constants.py: TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING */
const cb_default_target cb_lora_default_targets[] = {
    {"t5", "q,v"},
    {"mt5", "q,v"},
    {"umt5", "q,v"}, /* not in PEFT: what mT5 has */
    {"bart", "q_proj,v_proj"},
    {"gpt2", "c_attn"},
    {"bloom", "query_key_value"},
    {"blip-2", "q,v,q_proj,v_proj"},
    {"opt", "q_proj,v_proj"},
    {"gptj", "q_proj,v_proj"},
    {"gpt_neox", "query_key_value"},
    {"gpt_neo", "q_proj,v_proj"},
    {"bert", "query,value"},
    {"roberta", "query,value"},
    {"xlm-roberta", "query,value"},
    {"distilbert", "q_lin,v_lin"}, /* these are not in PEFT: what BERT has there by their names */
    {"camembert", "query,value"},
    {"mpnet", "q,v"},
    {"vit", "query,value"}, /* as in the examples of PEFT's documentation, and the convolutions */
    {"deit", "query,value"},
    {"resnet", "convolution"},
    {"unet", "convolution"},
    {"crnn", "weight_ih_l0,weight_hh_l0,weight_ih_l0_reverse,weight_hh_l0_reverse,weight_ih_l1,weight_hh_l1,weight_ih_l1_reverse,"
             "weight_hh_l1_reverse"},
    {"UNet2DModel", "to_q,to_k,to_v,to_out.0"}, /* diffusers' own scripts */
    {"DiTTransformer2DModel", "to_q,to_k,to_v,to_out.0"},
    {"squeezenet", "squeeze,expand1x1,expand3x3"},
    {"clip", "q_proj,v_proj"},
    {"clip_vision_model", "q_proj,v_proj"},
    {"clip_text_model", "q_proj,v_proj"},
    {"convnext", "pwconv1,pwconv2"},
    {"mobilenet_v2", "expand_1x1.convolution,reduce_1x1.convolution,conv_1x1.convolution"},
    {"swin", "query,value"},
    {"segformer", "query,value"},
    {"electra", "query,value"},
    {"deberta-v2", "query_proj,value_proj"},
    {"deberta", "in_proj"},
    {"layoutlm", "query,value"},
    {"llama", "q_proj,v_proj"},
    {"llama4", "q_proj,v_proj"},
    {"chatglm", "query_key_value"},
    {"gpt_bigcode", "c_attn"},
    {"mpt", "Wqkv"},
    {"RefinedWebModel", "query_key_value"},
    {"RefinedWeb", "query_key_value"},
    {"falcon", "query_key_value"},
    {"btlm", "c_proj,c_attn"},
    {"codegen", "qkv_proj"},
    {"mistral", "q_proj,v_proj"},
    {"mixtral", "q_proj,v_proj"},
    {"stablelm", "q_proj,v_proj"},
    {"phi", "q_proj,v_proj,fc1,fc2"},
    {"gemma", "q_proj,v_proj"},
    {"gemma2", "q_proj,v_proj"},
    {"gemma3_text", "q_proj,v_proj"},
    {"gemma4", ".*language_model\\..*\\.(q_proj|v_proj)"},
    {"qwen2", "q_proj,v_proj"},
    {"qwen3", "q_proj,v_proj"},
    {"nemotron_h", "q_proj,k_proj,v_proj,o_proj"},
    {"rwkv", "key,value,receptance,output"},
    {"rwkv7", "r_proj,k_proj,v_proj,o_proj,key,value"},
    {0},
};

const cb_default_target cb_mlp_default_targets[] = {{"gpt_bigcode", "mlp.c_proj"}, {"gpt2", "mlp.c_proj"}, {"*", NULL}, {0}};
const cb_default_target cb_qv_default_targets[] = {{"phi", "q_proj,v_proj"}, {"*", NULL}, {0}};

const cb_adapter_kind *const *cb_adapter_kinds(void)
{
    return kinds;
}

const cb_adapter_kind *cb_adapter_kind_find(const char *name_or_peft_type)
{
    const char *names[sizeof kinds / sizeof(kinds[0])];
    size_t count = 0;
    for (; kinds[count]; count++) {
        if (strcmp(name_or_peft_type, kinds[count]->name) == 0 || strcmp(name_or_peft_type, kinds[count]->peft_type) == 0)
            return kinds[count];
        names[count] = kinds[count]->name;
    }
    cb_string close = {0};
    cb_closest_names(name_or_peft_type, names, count, 5, &close);
    cb_fail(CB_ERR_ARGUMENT, "adapter kind: found '%.100s', expected one like %s", name_or_peft_type, close.data ? close.data : "none");
    cb_string_free(&close);
    return NULL;
}
