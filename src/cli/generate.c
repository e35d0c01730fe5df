/* generate.c: `cambium generate`: text from a model with any adapters, shown as it becomes certain. */
#include <float.h>
#include <stdio.h>
#include <string.h>

#include "cli/cli.h"
#include "core/json.h"

typedef struct settings {
    char *prompt, *tokenizer;
    bool dry_run, chat;
    char *system, *messages, *chat_template, *chat_template_kwargs;
    cb_string_list adapter, adapter_option;
    int dtype;
    cli_rows_settings rows;
    cli_make_settings make;
    cb_generate_options options;
} settings;

static const cb_option table[] = {
    CB_OPT_STRING(settings, prompt, NULL, "TEXT", "text to go on from; - reads standard input"),
    CB_OPT_LIST(settings, adapter, NULL, "DIR,...",
                "adapter, or several saved as one directory, each with an optional NAME= before it and =weight behind; may be given "
                "again"),
    CLI_ADAPTER_OPTION(settings),
    CB_OPT_STRING(settings, tokenizer, NULL, "PATH", "tokenizer.json or its directory; without it the model's own"),
    CB_OPT_ENUM(settings, dtype, 1, cli_dtype_names, "how activations are kept and products are computed"),
    CLI_DRY_RUN(settings, CLI_NEEDS_HELP),
    CB_OPT_END};

static const cb_option chat_table[] = {
    CB_OPT_BOOL(settings, chat, false, "the prompt is a user's message: it is written as the model's chat template has it"),
    CB_OPT_STRING(settings, system, NULL, "TEXT", "system message before it"),
    CB_OPT_STRING(settings, messages, NULL, "FILE",
                  "JSON: an array of messages, or an object with messages, tools and others, instead of a prompt"),
    CB_OPT_STRING(settings, chat_template, "auto", "NAME|FILE",
                  "the tokenizer's template (auto, or one of several by name), chatml, llama3, plain, or a file"),
    CB_OPT_STRING(settings, chat_template_kwargs, NULL, "JSON",
                  "an object with more variables for the template, such as {\"enable_thinking\": false}"),
    CB_OPT_END};

static const cli_group groups[] = {{"Input", table, 0},
                                   {"Batches", cli_rows_table, offsetof(settings, rows)},
                                   {"Conversation", chat_table, 0},
                                   {"Images", cli_make_table, offsetof(settings, make)},
                                   {"Steps from noise to images", cb_sample_option_table, offsetof(settings, make.sample)},
                                   {"Sampling", cb_generate_option_table, offsetof(settings, options)},
                                   {0}};

static bool print_piece(void *user, const char *text, size_t length)
{
    (void)user;
    return fwrite(text, 1, length, stdout) == length && fflush(stdout) == 0;
}

static json_t *integers(const int32_t *list, size_t count)
{
    json_t *array = json_array();
    for (size_t i = 0; i < count; i++)
        json_array_append_new(array, json_integer(list[i]));
    return array;
}

double cli_mean_rounds(const cb_generation *g)
{
    double sum = 0;
    for (size_t i = 0; i < g->count; i++)
        sum += g->rounds[i];
    return g->count ? sum / (double)g->count : 0;
}

bool cli_put_rounds(json_t *object, const cb_model *model, const cb_generation *g)
{
    return cb_model_exits(model) == 1 || (cb_json_put(object, "rounds", integers(g->rounds, g->count)) &&
                                          cb_json_put(object, "mean_rounds", cli_real(cli_mean_rounds(g))));
}

static json_t *generation_json(const cli_base *base, const char *prompt, const cb_generation *g)
{
    json_t *ids = integers(g->ids, g->count);
    double seconds = g->generate_seconds;
    size_t timed = g->count ? g->count - 1 : 0; /* the first token comes out of the prompt's pass */
    return json_pack("{s:s, s:s, s:s%, s:o, s:I, s:I, s:s, s:o, s:o, s:o, s:I}", "model", cb_model_directory(base->model), "prompt", prompt,
                     "text", g->text.data ? g->text.data : "", g->text.length, "ids", ids, "prompt_tokens", (json_int_t)g->prompt_tokens,
                     "tokens", (json_int_t)g->count, "finish_reason", g->finish_reason, "prompt_seconds", cli_real(g->prompt_seconds),
                     "generate_seconds", cli_real(seconds), "tokens_per_second", cli_real(seconds > 0 ? (double)timed / seconds : 0),
                     "peak_memory", (json_int_t)cb_peak_rss());
}

/* ---- conversations ---- */

/* The conversation of the command line as JSON: the file, or what --system and --prompt say. */
static json_t *conversation(const settings *s, const char *prompt)
{
    json_t *value = NULL;
    if (s->messages) {
        value = cb_json_load(s->messages, 0);
        if (value && json_is_array(value))
            value = json_pack("{s:o}", "messages", value);
        if (value && !json_is_array(json_object_get(value, "messages")))
            return json_decref(value), cli_refuse("%s: found no messages, expected an array of them or an object with one", s->messages),
                   NULL;
    } else {
        json_t *messages = json_array();
        if (s->system)
            json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "system", "content", s->system));
        json_array_append_new(messages, json_pack("{s:s, s:s}", "role", "user", "content", prompt));
        value = json_pack("{s:o}", "messages", messages);
    }
    json_t *more = value && s->chat_template_kwargs
                       ? cb_json_parse("--chat-template-kwargs", s->chat_template_kwargs, strlen(s->chat_template_kwargs))
                       : NULL;
    if (more && !json_is_object(more))
        cli_refuse("--chat-template-kwargs: found another value, expected an object");
    if (more)
        json_object_set_new(value, "chat_template_kwargs", more);
    return value;
}

/* The prompt as the chat template writes it; *framed: with all its special tokens. */
static bool write_chat(const settings *s, const cli_base *base, const char *prompt, cb_string *text, bool *framed)
{
    json_t *value = conversation(s, prompt);
    cb_chat *chat = value && cb_ok() ? cb_chat_open(base->tokenizer, s->chat_template) : NULL;
    char *json = chat ? cb_json_dump(value, false) : NULL;
    bool ok = json && cb_chat_apply(chat, json, strlen(json), true, text);
    *framed = chat && cb_chat_is_framed(chat);
    cb_free(json);
    cb_chat_free(chat);
    json_decref(value);
    return ok;
}

static bool answer(const settings *s, const cli_base *base, const char *prompt, cb_generate_callback *callback, cb_generation *out)
{
    cb_string text = {0};
    cb_encoding ids = {0};
    bool framed;
    bool ok = write_chat(s, base, prompt, &text, &framed) &&
              cb_tokenizer_encode(base->tokenizer, text.data ? text.data : "", text.length, !framed, &ids) &&
              cb_generate_ids(base->model, base->tokenizer, ids.ids, ids.count, &s->options, callback, NULL, out);
    cb_encoding_free(&ids);
    cb_string_free(&text);
    return ok;
}

static void show_end(const cb_model *model, const cb_generation *g)
{
    fprintf(stderr, "[%lld prompt tokens in %s; %zu tokens, %.1f tokens/s; ", (long long)g->prompt_tokens, cli_seconds(g->prompt_seconds),
            g->count, g->generate_seconds > 0 && g->count ? (double)(g->count - 1) / g->generate_seconds : 0);
    if (cb_model_exits(model) > 1)
        fprintf(stderr, "%.2f of %lld rounds a token; ", cli_mean_rounds(g), (long long)cb_model_exits(model));
    fprintf(stderr, "%s]\n", g->finish_reason);
}

static bool generate(cli_call *call, const settings *s, const cli_base *base, const char *prompt)
{
    cb_generation out = {0};
    bool json = call->common.json;
    cb_generate_callback *callback = json || s->dry_run ? NULL : print_piece;
    bool ok = s->chat ? answer(s, base, prompt, callback, &out)
                      : cb_generate(base->model, base->tokenizer, prompt, &s->options, callback, NULL, &out);
    if (!json && out.text.length)
        putchar('\n');
    bool show = ok && !s->dry_run;
    json_t *result = show && json ? generation_json(base, prompt, &out) : NULL;
    if (result)
        ok = cli_put_rounds(result, base->model, &out) && cli_json(result);
    else if (show && cli_terminal_width(2) && !call->common.quiet)
        show_end(base->model, &out);
    cb_generation_free(&out);
    return ok;
}

/* ---- images ---- */

static bool make_images(cli_call *call, settings *s)
{
    cli_base base = {0};
    cli_rehearsal rehearsal;
    if (s->prompt || s->messages || s->rows.prompts || s->chat)
        return cli_usage(call, "--images are made without a prompt");
    if (!s->make.output)
        return cli_usage(call, "--output is needed with --images");
    if (s->dry_run && !cli_rehearsal_begin(&rehearsal, s->make.output))
        return false;
    s->make.batch_size = s->rows.batch_size;
    bool ok = cli_base_load(&base, call->arguments[0], &s->adapter, &s->adapter_option, cli_dtype(s->dtype));
    if (ok && !cli_is_denoiser(base.model))
        ok = cli_refuse("--images: %s is a %s, expected a network that denoises, such as UNet2DModel", call->arguments[0],
                        cb_model_type(base.model));
    ok = ok && cli_base_switch_on(&base) && cli_make_images(call, &base, &s->make, &s->adapter, s->options.seed);
    cli_base_close(&base);
    return s->dry_run ? cli_plan(call, &rehearsal, ok) : ok;
}

static bool run(cli_call *call, void *settings_)
{
    settings *s = settings_;
    if (s->make.images)
        return make_images(call, s);
    if (cli_given(call, "top-p") && s->options.top_p <= 0)
        s->options.top_p = DBL_MIN; /* the likeliest alone; 0 leaves it off in the library */
    s->chat |= s->system || s->messages || s->chat_template_kwargs || cli_given(call, "chat-template");
    bool rows = s->rows.prompts;
    if ((s->prompt != NULL) + (s->messages != NULL) + rows != 1 || (s->messages && s->system))
        return cli_usage(call, "expected one of --prompt (with --system or without), --messages and --prompts");
    if (rows && s->chat)
        return cli_usage(call, "--prompts are texts to go on from, without options of conversations");
    size_t length = 0;
    cli_base base = {0};
    cli_rehearsal rehearsal;
    if (s->dry_run && !cli_rehearsal_begin(&rehearsal, NULL))
        return false;
    char *prompt = cli_text_argument(s->prompt ? s->prompt : "", &length);
    bool ok = prompt;
    size_t bad = 0;
    if (ok && strlen(prompt) != length)
        ok = cli_refuse("--prompt: found a zero byte at offset %zu, expected text", strlen(prompt));
    else if (ok && !cb_utf8_valid(prompt, length, &bad))
        ok = cli_refuse("--prompt: found invalid UTF-8 at byte %zu, expected UTF-8 text", bad);
    ok = ok && cli_base_load(&base, call->arguments[0], &s->adapter, &s->adapter_option, cli_dtype(s->dtype)) &&
         (base.tokenizer = cli_tokenizer(s->tokenizer, base.model)) && ((rows && !base.composition.count) || cli_base_switch_on(&base)) &&
         (rows ? cli_generate_rows(call, &base, &s->rows, &s->options) : generate(call, s, &base, prompt));
    cli_base_close(&base);
    cb_free(prompt);
    return s->dry_run ? cli_plan(call, &rehearsal, ok) : ok;
}

const cli_command cli_generate = {
    .name = "generate",
    .summary = "continue a text, or make images, with a model and any adapters",
    .synopsis = "MODEL_DIR --prompt TEXT|--prompts FILE|--images N --output DIR [--chat] [--adapter [NAME=]DIR[=weight]]... [options]",
    .description =
        "Prints the continuation as it is made, or, of a model with an encoder and a decoder, the answer. Without --temperature "
        "the likeliest token is taken each time, so the result "
        "is the same on every run. Several adapters add up, each times its weight. With --prompts many texts run "
        "as one batch, each with adapters of its own. With --images a network that denoises makes images of noise (docs/diffusion.md).",
    .least = 1,
    .most = 1,
    .settings_size = sizeof(settings),
    .groups = groups,
    .examples =
        (const char *const[]){"cambium generate models/base --prompt \"Once upon a time\" --max-new-tokens 64",
                              "cambium generate models/base --chat --system \"Be brief.\" --prompt \"What is a graft?\"",
                              "cambium generate models/base --adapter out/adapter=0.5 --prompt - --temperature 0.8 < prompt.txt",
                              "cambium generate models/base --adapter fr=out/french --adapter de=out/german --prompts prompts.jsonl",
                              "cambium generate out/digits --images 20 --class 3,8 --guidance-scale 2 --output out/made", NULL},
    .run = run};
