/* tokenizer_directory.c: a tokenizer with what a Hugging Face directory has beside it. */
#include "cambium/files.h"
#include "cambium/tokenizer.h"

static bool copy_named(const char *from, const char *to, const char *name)
{
    char *source = cb_path_join(from, name), *target = cb_path_join(to, name);
    bool ok = source && target && cb_file_copy(source, target);
    cb_free(source);
    cb_free(target);
    return ok;
}

/* Templates with names of their own. */
static bool copy_templates(const char *from, const char *to)
{
    static const char folder[] = "additional_chat_templates";
    char *source = cb_path_join(from, folder), *target = cb_path_join(to, folder);
    cb_string_list names = {0};
    bool ok = source && target;
    if (ok && cb_is_directory(source))
        ok = cb_directory_list(source, false, &names) && cb_directory_make(target);
    for (size_t i = 0; ok && i < names.count; i++)
        ok = !cb_ends_with(names.items[i], ".jinja") || copy_named(source, target, names.items[i]);
    cb_string_list_free(&names);
    cb_free(source);
    cb_free(target);
    return ok;
}

bool cb_tokenizer_save_directory(const cb_tokenizer *tokenizer, const char *from, const char *to)
{
    static const char *const beside[] = {"tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "chat_template.json"};
    char *path = cb_path_join(to, "tokenizer.json");
    bool ok = path && (!tokenizer || cb_tokenizer_save(tokenizer, path));
    cb_free(path);
    if (!cb_is_directory(from))
        return ok;
    for (size_t i = 0; ok && i < sizeof beside / sizeof *beside; i++)
        ok = copy_named(from, to, beside[i]);
    return ok && copy_templates(from, to);
}
