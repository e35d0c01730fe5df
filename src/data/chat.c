/* chat.c: conversations as text, in the formats that models were taught.
 *
 * Which one a tokenizer wants is read off its Jinja template by the markers that are unmistakably that format's; a template that is none of
 * them is refused by name, never guessed. */
#include <string.h>

#include "data/dataset.h"

const char *const cb_chat_template_names[] = {"auto", "chatml", "llama3", "plain", NULL};
enum { CHAT_AUTO, CHAT_CHATML, CHAT_LLAMA3, CHAT_PLAIN };

typedef struct chat_format {
    const char *start; /* before everything */
    const char *role_before, *role_after;
    const char *message_after;
} chat_format;

static const chat_format formats[] = {
    [CHAT_CHATML] = {"", "<|im_start|>", "\n", "<|im_end|>\n"},
    [CHAT_LLAMA3] = {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>"},
    [CHAT_PLAIN] = {"", "", ": ", "\n"},
};

static int detect(const cb_tokenizer *tokenizer)
{
    const char *template = cb_tokenizer_chat_template(tokenizer);
    if (!template)
        return CHAT_PLAIN;
    if (strstr(template, "<|im_start|>"))
        return CHAT_CHATML;
    if (strstr(template, "<|start_header_id|>"))
        return CHAT_LLAMA3;
    cb_fail(CB_ERR_UNSUPPORTED, "the tokenizer's chat_template is neither ChatML nor Llama 3; name a format with --chat-template "
                                "(chatml, llama3, plain)");
    return -1;
}

bool cb_chat_render(const cb_tokenizer *tokenizer, int template_index, size_t count, const cb_message *messages, cb_string *text,
                    text_span_list *learned, bool *framed)
{
    int which = template_index == CHAT_AUTO ? detect(tokenizer) : template_index;
    if (which < 0)
        return false;
    const chat_format *f = &formats[which];
    *framed = which != CHAT_PLAIN;
    bool ok = cb_string_puts(text, f->start);
    for (size_t i = 0; i < count && ok; i++) {
        bool assistant = strcmp(messages[i].role, "assistant") == 0;
        ok = cb_string_printf(text, "%s%s%s", f->role_before, messages[i].role, f->role_after);
        size_t begin = text->length;
        ok = ok && cb_string_puts(text, messages[i].content) && cb_string_puts(text, f->message_after);
        if (ok && assistant) {
            ok = cb_grow(&learned->items, &learned->capacity, learned->count + 1, sizeof *learned->items);
            if (ok)
                learned->items[learned->count++] = (text_span){begin, text->length};
        }
    }
    return ok;
}
