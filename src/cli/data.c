/* data.c: `cambium data`: the data sets of experiments and the zoo: what they are, who uses them, and where they are. */
#include <string.h>

#include "cli/cli.h"
#include "experiments/data_sets.h"
#include "experiments/experiments.h"
#include "experiments/zoo.h"

static bool among(const char *const *names, const char *name)
{
    for (; names && *names; names++)
        if (strcmp(*names, name) == 0)
            return true;
    return false;
}

static json_t *users_of(const data_set *set)
{
    json_t *users = json_array();
    for (const cb_experiment *const *e = cb_experiments(); *e; e++)
        if (among((*e)->data, set->name))
            json_array_append_new(users, json_sprintf("%s repro %s", CLI_PROGRAM, (*e)->name));
    for (const zoo_network *n = zoo_networks(); n->name; n++)
        if (among(n->data, set->name))
            json_array_append_new(users, json_sprintf("%s zoo build %s", CLI_PROGRAM, n->name));
    return users;
}

static json_t *set_json(const data_set *set)
{
    char *place = data_set_place(set);
    json_t *object = json_pack("{s:s, s:s, s:s, s:s, s:s?, s:s?, s:o}", "name", set->name, "title", set->title, "origins", set->origins,
                               "terms", set->terms, "package", set->package, "directory", place, "used_by", users_of(set));
    cb_free(place);
    return object;
}

static bool print_one(const cli_call *call, const data_set *set)
{
    json_t *object = set_json(set), *user;
    size_t i;
    if (call->common.json)
        return cli_json(object);
    const char *place = json_string_value(json_object_get(object, "directory"));
    cli_field("data set", "%s", set->name);
    cli_field("what", "%s", set->title);
    cli_field("origins", "%s", set->origins);
    cli_field("terms", "%s", set->terms);
    if (set->package)
        cli_field("package", "%s (Debian)", set->package);
    cli_field("directory", "%s", place ? place : "not here");
    json_array_foreach(json_object_get(object, "used_by"), i, user)
    {
        cli_field(i ? "" : "used by", "%s", json_string_value(user));
    }
    json_decref(object);
    return cb_ok();
}

static bool print_all(const cli_call *call)
{
    cli_table table = {.columns = 3, .right = "lll"};
    json_t *list = json_array();
    for (const data_set *set = data_sets(); set->name; set++) {
        char *place = data_set_place(set);
        json_array_append_new(list, set_json(set));
        cli_table_add(&table, "%s", set->name);
        cli_table_add(&table, "%s", place ? place : "not here");
        cli_table_add(&table, "%s", set->title);
        cb_free(place);
    }
    if (!call->common.json) {
        json_decref(list);
        cli_table_print(&table);
        return cb_ok();
    }
    cb_string_list_free(&table.cells);
    return cli_json(json_pack("{s:o}", "data_sets", list));
}

static bool run(cli_call *call, void *settings)
{
    (void)settings;
    if (!call->argument_count)
        return print_all(call);
    const char *names[64];
    size_t count = 0;
    for (const data_set *set = data_sets(); set->name; set++) {
        if (strcmp(set->name, call->arguments[0]) == 0)
            return print_one(call, set);
        names[count++] = set->name;
    }
    cb_string close = {0};
    cb_closest_names(call->arguments[0], names, count, 3, &close);
    cli_refuse("there is no data set %s%s%s", call->arguments[0], close.length ? "; close: " : "", close.length ? close.data : "");
    cb_string_free(&close);
    return false;
}

const cli_command cli_data = {.name = "data",
                              .summary = "list the data sets of experiments and the zoo, and where they are",
                              .synopsis = "[NAME] [options]",
                              .description = "A data set is a directory of its name below CAMBIUM_DATA, else below cambium/data in the "
                                             "user's cache, else where a Debian package "
                                             "puts it.  They are other people's: NAME shows where a set comes from and on what terms.",
                              .least = 0,
                              .most = 1,
                              .examples = (const char *const[]){"cambium data", "cambium data text-corpora --json", NULL},
                              .run = run};
