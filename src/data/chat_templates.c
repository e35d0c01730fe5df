/* chat_templates.c: templates that come with the program, for models whose tokenizer has none. */
#include <string.h>

#include "data/dataset.h"

/* What the assistant says is marked as such; of ChatML the line end behind the mark is not said. */
static const struct {
    const char *name, *text;
} templates[] = {
    {"chatml", "{% for message in messages %}<|im_start|>{{ message.role }}\n"
               "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}<|im_end|>{% endgeneration %}"
               "{% else %}{{ message.content }}<|im_end|>{% endif %}{{ '\\n' }}{% endfor %}"
               "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"},
    {"llama3", "<|begin_of_text|>{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>{{ '\\n\\n' }}"
               "{% if message.role == 'assistant' %}{% generation %}{{ message.content | trim }}<|eot_id|>{% endgeneration %}"
               "{% else %}{{ message.content | trim }}<|eot_id|>{% endif %}{% endfor %}"
               "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{{ '\\n\\n' }}{% endif %}"},
    {"plain", "{% for message in messages %}{{ message.role }}: "
              "{% if message.role == 'assistant' %}{% generation %}{{ message.content }}{{ '\\n' }}{% endgeneration %}"
              "{% else %}{{ message.content }}{{ '\\n' }}{% endif %}{% endfor %}"
              "{% if add_generation_prompt %}assistant:{% endif %}"},
};

const char *cb_chat_builtin(const char *name)
{
    for (size_t i = 0; i < sizeof templates / sizeof *templates; i++)
        if (strcmp(templates[i].name, name) == 0)
            return templates[i].text;
    return NULL;
}
