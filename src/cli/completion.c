/* completion.c: completion scripts for bash, zsh and fish, from the tables: commands, their flags, and the values of
 * flags that are one of a few names. */
#include <string.h>

#include "cli/cli.h"

/* ---- what all shells need ---- */

/* Whether a section before this one has an option of the name: adapter kinds share many. */
static bool stands_before(const cli_section *sections, int count, const char *name)
{
    for (int i = 0; i < count; i++)
        if (cb_options_find(sections[i].table, name))
            return true;
    return false;
}

/* Calls `each` for every option of a command. */
typedef bool option_visitor(const cli_command *command, const cb_option *option, cb_string *out);
static bool for_options(const cli_command *command, option_visitor *each, cb_string *out)
{
    cli_section sections[CLI_MOST_SECTIONS];
    int count = cli_sections(command, NULL, NULL, sections);
    bool ok = true;
    for (int i = 0; i < count; i++)
        for (const cb_option *o = sections[i].table; o->type && ok; o++)
            ok = stands_before(sections, i, o->name) || each(command, o, out);
    return ok;
}

/* "--batch-size", or "--no-packing" for what is on unless told otherwise. */
static char *plain_flag(const cb_option *option)
{
    bool on = option->type == CB_OPTION_BOOL && option->number != 0;
    char *flag = cb_format("--%s%s", on ? "no-" : "", option->name);
    for (char *c = flag; c && *c; c++)
        if (*c == '_')
            *c = '-';
    return flag;
}

static bool choices(const cb_option *option, cb_string *out)
{
    bool ok = true;
    for (int i = 0; option->choices[i] && ok; i++)
        ok = cb_string_printf(out, "%s%s", i ? " " : "", option->choices[i]);
    return ok;
}

static bool takes_path(const cb_option *option)
{
    static const char *const words[] = {"FILE", "DIR", "JSON", "PATH"};
    for (size_t i = 0; option->metavar && i < sizeof words / sizeof *words; i++)
        if (strstr(option->metavar, words[i]))
            return true;
    return false;
}

/* Text inside single quotes. */
static bool quoted(const char *text, cb_string *out)
{
    bool ok = cb_string_puts(out, "'");
    for (; *text && ok; text++)
        ok = *text == '\'' ? cb_string_puts(out, "'\\''") : cb_string_append(out, text, 1);
    return ok && cb_string_puts(out, "'");
}

/* The first words of all commands, each once. */
static bool first_words(cb_string *out)
{
    bool ok = true;
    for (const cli_command *const *c = cli_commands(); *c && ok; c++) {
        size_t length = strcspn((*c)->name, " ");
        bool again = c != cli_commands() && strncmp(c[-1]->name, (*c)->name, length) == 0 && strcspn(c[-1]->name, " ") == length;
        if (!again)
            ok = cb_string_printf(out, "%.*s ", (int)length, (*c)->name);
    }
    return ok && cb_string_puts(out, "help completion");
}

/* The second words after `first`, which is not terminated. */
static bool second_words(const char *first, size_t length, cb_string *out)
{
    bool ok = true;
    for (const cli_command *const *c = cli_commands(); *c && ok; c++)
        if (strncmp((*c)->name, first, length) == 0 && (*c)->name[length] == ' ')
            ok = cb_string_printf(out, "%s ", (*c)->name + length + 1);
    return ok;
}

/* ---- bash (zsh reads the same script) ---- */

static bool bash_flag(const cli_command *command, const cb_option *option, cb_string *out)
{
    (void)command;
    char *flag = plain_flag(option);
    bool ok = flag && cb_string_printf(out, "%s ", flag);
    cb_free(flag);
    return ok;
}

static bool bash_choice(const cli_command *command, const cb_option *option, cb_string *out)
{
    if (option->type != CB_OPTION_ENUM)
        return true;
    char *flag = plain_flag(option);
    bool ok = flag && cb_string_printf(out, "        '%s %s') words='", command->name, flag) && choices(option, out) &&
              cb_string_puts(out, "' ;;\n");
    cb_free(flag);
    return ok;
}

static bool bash_value(const cli_command *command, const cb_option *option, cb_string *out)
{
    (void)command;
    if (option->type == CB_OPTION_BOOL || option->type == CB_OPTION_ENUM || takes_path(option))
        return true;
    char *flag = plain_flag(option);
    bool ok = flag && cb_string_printf(out, "|'%s %s'", command->name, flag);
    cb_free(flag);
    return ok;
}

static bool bash_script(cb_string *out)
{
    bool ok = cb_string_puts(out, "# bash completion for " CLI_PROGRAM "\n_" CLI_PROGRAM "()\n{\n"
                                  "    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD-1]}\n"
                                  "    local command=${COMP_WORDS[1]} words=''\n    COMPREPLY=()\n"
                                  "    if [ \"$COMP_CWORD\" = 1 ]; then\n        COMPREPLY=($(compgen -W '") &&
              first_words(out) && cb_string_puts(out, "' -- \"$current\"))\n        return\n    fi\n    case $command in\n");
    for (const cli_command *const *c = cli_commands(); *c && ok; c++) {
        size_t length = strcspn((*c)->name, " ");
        bool again = c != cli_commands() && strncmp(c[-1]->name, (*c)->name, length + 1) == 0;
        if ((*c)->name[length] && !again)
            ok = cb_string_printf(out, "    %.*s)\n        if [ \"$COMP_CWORD\" = 2 ]; then\n            COMPREPLY=($(compgen -W '",
                                  (int)length, (*c)->name) &&
                 second_words((*c)->name, length, out) &&
                 cb_string_puts(out, "' -- \"$current\"))\n            return\n        fi\n"
                                     "        command=\"$command ${COMP_WORDS[2]}\" ;;\n");
    }
    ok = ok && cb_string_puts(out, "    help) words='") && first_words(out) &&
         cb_string_puts(out, "' ;;\n    completion) words='bash zsh fish' ;;\n    esac\n    case \"$command $previous\" in\n");
    for (const cli_command *const *c = cli_commands(); *c && ok; c++)
        ok = for_options(*c, bash_choice, out);
    ok = ok && cb_string_puts(out, "        ''");
    for (const cli_command *const *c = cli_commands(); *c && ok; c++)
        ok = for_options(*c, bash_value, out);
    ok = ok && cb_string_puts(out, ") return ;;\n    esac\n    case \"$current\" in -*) case \"$command\" in\n");
    for (const cli_command *const *c = cli_commands(); *c && ok; c++)
        ok = cb_string_printf(out, "        '%s') words='", (*c)->name) && for_options(*c, bash_flag, out) && cb_string_puts(out, "' ;;\n");
    return ok && cb_string_puts(out, "        esac ;;\n    esac\n"
                                     "    if [ -n \"$words\" ]; then\n        COMPREPLY=($(compgen -W \"$words\" -- \"$current\"))\n"
                                     "    else\n        COMPREPLY=($(compgen -f -- \"$current\"))\n    fi\n}\n"
                                     "complete -o filenames -F _" CLI_PROGRAM " " CLI_PROGRAM "\n");
}

static bool zsh_script(cb_string *out)
{
    return cb_string_puts(out, "#compdef " CLI_PROGRAM "\nautoload -U +X bashcompinit && bashcompinit\n") && bash_script(out);
}

/* ---- fish ---- */

static bool fish_option(const cli_command *command, const cb_option *option, cb_string *out)
{
    char *flag = plain_flag(option);
    size_t first = strcspn(command->name, " ");
    bool ok = flag && cb_string_printf(out, "complete -c %s -n '__fish_seen_subcommand_from %.*s", CLI_PROGRAM, (int)first, command->name);
    if (ok && command->name[first])
        ok = cb_string_printf(out, "; and __fish_seen_subcommand_from %s", command->name + first + 1);
    ok = ok && cb_string_printf(out, "' -l %s", flag + 2);
    if (ok && option->type == CB_OPTION_ENUM)
        ok = cb_string_puts(out, " -x -a '") && choices(option, out) && cb_string_puts(out, "'");
    else if (ok && option->type != CB_OPTION_BOOL)
        ok = cb_string_puts(out, takes_path(option) ? " -r" : " -x");
    ok = ok && cb_string_puts(out, " -d ") && quoted(option->help, out) && cb_string_puts(out, "\n");
    cb_free(flag);
    return ok;
}

static bool fish_script(cb_string *out)
{
    bool ok =
        cb_string_printf(out, "# fish completion for %s\ncomplete -c %s -n __fish_use_subcommand -f -a '", CLI_PROGRAM, CLI_PROGRAM) &&
        first_words(out) && cb_string_puts(out, "'\n");
    for (const cli_command *const *c = cli_commands(); *c && ok; c++) {
        size_t length = strcspn((*c)->name, " ");
        bool again = c != cli_commands() && strncmp(c[-1]->name, (*c)->name, length + 1) == 0;
        if ((*c)->name[length] && !again)
            ok = cb_string_printf(out, "complete -c %s -n '__fish_seen_subcommand_from %.*s' -f -a '", CLI_PROGRAM, (int)length,
                                  (*c)->name) &&
                 second_words((*c)->name, length, out) && cb_string_puts(out, "'\n");
        ok = ok && for_options(*c, fish_option, out);
    }
    return ok;
}

bool cli_completion(const char *shell, cb_string *out)
{
    if (strcmp(shell, "bash") == 0)
        return bash_script(out);
    if (strcmp(shell, "zsh") == 0)
        return zsh_script(out);
    if (strcmp(shell, "fish") == 0)
        return fish_script(out);
    return cli_refuse("found \"%s\", expected one of bash, zsh, fish", shell);
}
