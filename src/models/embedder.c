/* embedder.c: a sentence encoder: a model without its head, pooling, and the modules behind it. */
#include "models/embedder.h"

#include <stdlib.h>
#include <string.h>

#include "cambium/embedding.h"
#include "cambium/losses.h"
#include "core/unicode.h"

/* ---- loading ---- */

static bool settle_tokens(cb_embedder *e)
{
    int64_t own = cb_tokenizer_model_max_length(e->tokenizer);
    e->most_tokens = cb_model_max_positions(e->model);
    if (!e->max_tokens)
        e->max_tokens = own > 0 ? own : e->most_tokens;
    if (e->max_tokens > e->most_tokens)
        e->max_tokens = e->most_tokens;
    if (cb_tokenizer_id_limit(e->tokenizer) <= cb_model_vocab_size(e->model))
        return true;
    return cb_fail(CB_ERR_FORMAT, "%s: the tokenizer's ids go up to %lld, expected less than the model's vocab_size %lld", e->transformer,
                   (long long)cb_tokenizer_id_limit(e->tokenizer) - 1, (long long)cb_model_vocab_size(e->model)) == CB_OK;
}

cb_embedder *cb_embedder_load(const char *directory, cb_dtype dtype)
{
    cb_embedder *e = directory && cb_ok() ? cb_calloc(1, sizeof *e) : NULL;
    if (!e)
        return NULL;
    bool ok = (e->directory = cb_strdup(directory)) && cb_embedder_read(e);
    ok = ok && (e->model = cb_model_load(e->transformer, .dtype = dtype, .head = CB_HEAD_NONE)) && cb_embedder_check(e) &&
         (e->tokenizer = cb_tokenizer_load(e->transformer)) && settle_tokens(e);
    if (ok)
        return e;
    cb_embedder_free(e);
    return NULL;
}

void cb_embedder_free(cb_embedder *e)
{
    if (!e)
        return;
    for (int i = 0; i < e->step_count; i++) {
        cb_release(e->steps[i].weight);
        cb_release(e->steps[i].bias);
    }
    cb_tokenizer_free(e->tokenizer);
    cb_model_free(e->model);
    cb_string_list_free(&e->prompt_names);
    cb_string_list_free(&e->prompts);
    cb_free(e->default_prompt);
    cb_free(e->transformer);
    cb_free(e->directory);
    cb_free(e);
}

/* ---- questions ---- */

cb_model *cb_embedder_model(const cb_embedder *e)
{
    return e->model;
}

const cb_tokenizer *cb_embedder_tokenizer(const cb_embedder *e)
{
    return e->tokenizer;
}

const char *cb_embedder_directory(const cb_embedder *e)
{
    return e->directory;
}

int64_t cb_embedder_dimension(const cb_embedder *e)
{
    return e->dimension;
}

int64_t cb_embedder_max_tokens(const cb_embedder *e)
{
    return e->max_tokens;
}

bool cb_embedder_set_max_tokens(cb_embedder *e, int64_t tokens)
{
    if (tokens < 1 || tokens > e->most_tokens)
        return cb_fail(CB_ERR_ARGUMENT, "found %lld tokens, expected 1 to the model's %lld", (long long)tokens,
                       (long long)e->most_tokens) == CB_OK;
    e->max_tokens = tokens;
    return true;
}

cb_similarity cb_embedder_similarity(const cb_embedder *e)
{
    return e->similarity;
}

char *cb_embedder_describe(const cb_embedder *e)
{
    cb_string out = {0};
    for (int i = 0; i < e->pooling.count; i++)
        cb_string_printf(&out, "%s%s", i ? " and " : "", cb_pooling_names[e->pooling.modes[i]]);
    cb_string_printf(&out, " of %lld", (long long)cb_model_width(e->model));
    for (int i = 0; i < e->step_count; i++)
        if (e->steps[i].dense)
            cb_string_printf(&out, ", dense to %lld", (long long)e->steps[i].out);
        else
            cb_string_puts(&out, ", normalized");
    return out.data;
}

const char *cb_embedder_prompt(const cb_embedder *e, const char *name)
{
    for (size_t i = 0; i < e->prompt_names.count; i++)
        if (strcmp(e->prompt_names.items[i], name) == 0)
            return e->prompts.items[i];
    return NULL;
}

const char *cb_embedder_default_prompt(const cb_embedder *e)
{
    return e->default_prompt ? cb_embedder_prompt(e, e->default_prompt) : "";
}

const char *cb_embedder_query_prompt(const cb_embedder *e)
{
    const char *prompt = cb_embedder_prompt(e, "query");
    return prompt ? prompt : cb_embedder_default_prompt(e);
}

const char *cb_embedder_document_prompt(const cb_embedder *e)
{
    static const char *const names[] = {"document", "passage", "corpus"};
    const char *prompt = NULL;
    for (int i = 0; !prompt && i < 3; i++)
        prompt = cb_embedder_prompt(e, names[i]);
    return prompt ? prompt : cb_embedder_default_prompt(e);
}

/* ---- tokens ---- */

static bool lower_case(cb_string *text)
{
    cb_string lower = {0};
    bool ok = true;
    for (size_t at = 0; ok && at < text->length;) {
        char out[4];
        unsigned length;
        cb_utf8_read(text->data + at, &length);
        ok = cb_string_append(&lower, out, cb_utf8_lower(text->data, text->length, at, out));
        at += length;
    }
    if (ok && lower.data) {
        cb_string_free(text);
        *text = lower;
    } else {
        cb_string_free(&lower);
    }
    return ok;
}

static bool encode(const cb_embedder *e, const char *prompt, const char *text, cb_encoding *out)
{
    cb_string whole = {0};
    const cb_encode_options options = {.add_special_tokens = true, .max_length = (size_t)e->max_tokens};
    bool ok = cb_string_puts(&whole, prompt) && cb_string_puts(&whole, text);
    if (ok && !cb_utf8_valid(whole.data ? whole.data : "", whole.length, NULL))
        ok = cb_fail(CB_ERR_ARGUMENT, "found a text that is not UTF-8") == CB_OK;
    ok = ok && (!e->lower_case || lower_case(&whole)) &&
         cb_tokenizer_encode_with(e->tokenizer, whole.data ? whole.data : "", whole.length, &options, out);
    cb_string_free(&whole);
    return ok;
}

bool cb_embedder_encode(const cb_embedder *e, const char *prompt, const char *text, cb_encoding *out, int32_t *skipped)
{
    if (skipped)
        *skipped = 0;
    if (skipped && *prompt && !e->pooling.include_prompt) {
        if (!encode(e, prompt, "", out))
            return false;
        size_t count = out->count; /* but for a special token that ends it */
        *skipped = (int32_t)(count && out->special[count - 1] ? count - 1 : count);
    }
    return encode(e, prompt, text, out);
}

/* ---- forward ---- */

cb_tensor *cb_embedder_forward(const cb_embedder *e, cb_tensor *ids, cb_tensor *skipped, const cb_context *ctx)
{
    cb_scope *scope = ids ? cb_scope_open() : NULL;
    if (!scope)
        return NULL;
    cb_tensor *x = cb_pool(&e->pooling, cb_model_hidden(e->model, ids, ctx), ctx ? ctx->segments : NULL, skipped);
    for (int i = 0; x && i < e->step_count; i++) {
        const embedder_step *s = &e->steps[i];
        x = s->dense ? cb_linear(x, s->weight, s->bias) : cb_normalize(x, 1);
        x = x && s->activate ? s->activate(x) : x;
    }
    x = cb_scope_return(scope, x);
    cb_scope_close(scope);
    return x;
}
