/* finetune.c: the main job in C: load a model, attach LoRA, train it on a text, save a PEFT adapter, generate.
 *
 *     ./finetune MODEL_DIR TEXT_FILE OUTPUT_DIR [STEPS] */
#include <cambium.h>
#include <stdio.h>
#include <stdlib.h>

static void progress(void *user, const cb_train_report *r)
{
    (void)user;
    if (r->step % 10 == 0 || r->step == r->steps)
        printf("step %lld/%lld  loss %.4f  %.0f tokens/s\n", (long long)r->step, (long long)r->steps, r->loss, r->tokens_per_second);
}

int main(int argc, char **argv)
{
    if (argc < 4)
        return fprintf(stderr, "usage: %s MODEL_DIR TEXT_FILE OUTPUT_DIR [STEPS]\n", argv[0]), 2;
    /* load */
    cb_tokenizer *tokenizer = cb_tokenizer_load(argv[1]);
    cb_model *model = cb_model_load(argv[1], .dtype = CB_BF16);
    /* attach */
    cb_adapter *adapter = cb_adapter_new("lora", "default");
    cb_adapter_set(adapter, "rank", "8");
    cb_adapter_set(adapter, "target_modules", "all-linear");
    if (cb_ok())
        cb_adapter_attach(adapter, cb_model_root(model), cb_model_type(model), 1);
    /* train */
    cb_data_options text = {0};
    cb_options_init(cb_data_option_table, &text);
    text.seed = 1;
    text.sequence_length = 64;
    cb_string_list_add(&text.data, argv[2]);
    cb_dataset *data = cb_ok() ? cb_dataset_open(tokenizer, &text) : NULL;
    cb_train_options options = {0};
    cb_options_init(cb_train_option_table, &options);
    options.output = argv[3];
    options.steps = argc > 4 ? atoll(argv[4]) : 50;
    options.learning_rate = 1e-3;
    options.seed = 1;
    cb_trainee what = cb_train_adapter(model, adapter);
    if (cb_ok())
        cb_train(&what, data, NULL, &options, progress, NULL, NULL);
    /* generate */
    cb_generate_options generate;
    cb_options_init(cb_generate_option_table, &generate);
    generate.max_new_tokens = 20;
    cb_generation out = {0};
    if (cb_ok() && cb_generate(model, tokenizer, "The", &generate, NULL, NULL, &out))
        printf("The%s\n", out.text.data);
    int status = cb_ok() ? 0 : 1;
    if (status)
        fprintf(stderr, "%s: %s\n", argv[0], cb_error_message());
    cb_generation_free(&out);
    cb_dataset_free(data);
    cb_string_list_free(&text.data);
    cb_options_free(cb_generate_option_table, &generate);
    cb_options_free(cb_train_option_table, &options);
    cb_options_free(cb_data_option_table, &text);
    cb_adapter_free(adapter);
    cb_model_free(model);
    cb_tokenizer_free(tokenizer);
    return status;
}
