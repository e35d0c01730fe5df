/* records_triples.c: edges of knowledge graphs: a subject, a relation and an object, out of JSON, tables, and ConceptNet's dump, whose lines are
 *
 *     /a/[/r/Synonym/,/c/sw/gari/,/c/sw/motokaa/] TAB /r/Synonym TAB /c/sw/gari/n TAB /c/sw/motokaa TAB {"weight": 1.0}
 *
 * (Speer et al. 2017, arXiv:1612.03975).  There a term's underscores are blanks, and edges to other graphs (dbpedia/..., ExternalURL) are passed
 * over. */
#include <string.h>

#include "formats/records.h"

static CB_COLD cb_record_step refuse(const cb_records *records, int64_t line, const char *field, const char *problem)
{
    cb_fail(CB_ERR_FORMAT, "%s:%lld: %s: %s", records->input.path, (long long)line, field, problem);
    return CB_RECORD_FAILED;
}

static cb_record_step fill(const cb_records *records, int64_t line, const char *const values[4], cb_record_text *record)
{
    static const int fields[] = {CB_FIELD_SUBJECT, CB_FIELD_RELATION, CB_FIELD_OBJECT};
    for (int i = 0; i < 3; i++)
        if (!values[i] || !values[i][strspn(values[i], " \t\r\n")])
            return refuse(records, line, records->names[fields[i]], "found none, expected text");
    *record = (cb_record_text){.subject = values[0],
                               .relation = values[1],
                               .object = values[2],
                               .language = values[3],
                               .object_language = values[3],
                               .path = records->input.path,
                               .line = line};
    return CB_RECORD_FOUND;
}

static const int columns[] = {CB_FIELD_SUBJECT, CB_FIELD_RELATION, CB_FIELD_OBJECT, CB_FIELD_LANGUAGE};

/* ---- JSON and tables ---- */

cb_record_step cb_record_fill_triple_object(cb_records *records, int64_t line, cb_record_text *record)
{
    const char *values[4] = {0};
    for (int i = 0; i < 4; i++) {
        const char *name = NULL;
        const json_t *value = NULL;
        for (int n = 0; !value && (name = cb_record_field_name(records, columns[i], n)); n++)
            value = json_object_get(records->value, name);
        values[i] = json_string_value(value);
        if (value && !json_is_null(value) && (!values[i] || strlen(values[i]) != json_string_length(value)))
            return refuse(records, line, records->names[columns[i]], "expected a string without NUL characters");
    }
    return fill(records, line, values, record);
}

bool cb_record_check_triple_header(const cb_records *records, int64_t line)
{
    for (int i = 0; i < 3; i++)
        if (records->csv.column[columns[i]] < 0)
            return cb_fail(CB_ERR_FORMAT,
                           "%s:%lld: found %zu columns, the first named \"%.50s\", and none named %s; --columns %s=NAME names another",
                           records->input.path, (long long)line, records->csv.count, records->csv.row.data, records->names[columns[i]],
                           i == 0   ? "subject"
                           : i == 1 ? "relation"
                                    : "object") == CB_OK;
    return true;
}

cb_record_step cb_record_fill_triple_row(cb_records *records, int64_t line, cb_record_text *record)
{
    const char *values[4];
    for (int i = 0; i < 4; i++) {
        int column = records->csv.column[columns[i]];
        values[i] = column < 0 ? NULL : records->csv.row.data + records->csv.starts[column];
    }
    return fill(records, line, values, record);
}

/* ---- ConceptNet's dump ---- */

bool cb_records_are_conceptnet(const char *bytes, size_t size)
{
    static const char begin[] = "/a/[";
    return size >= sizeof begin - 1 && memcmp(bytes, begin, sizeof begin - 1) == 0;
}

/* "/c/sw/kitabu_kipya/n/..." in place: the language and the term, with blanks. */
static bool split_term(char *field, const char **language, const char **term)
{
    if (strncmp(field, "/c/", 3) != 0)
        return false;
    char *slash = strchr(field + 3, '/');
    if (!slash || slash == field + 3 || !slash[1] || slash[1] == '/')
        return false;
    *slash = 0;
    *language = field + 3;
    *term = slash + 1;
    char *rest = strchr(slash + 1, '/');
    if (rest)
        *rest = 0;
    for (char *c = slash + 1; *c; c++)
        *c = *c == '_' ? ' ' : *c;
    return true;
}

static bool is_of_other_graphs(const char *relation)
{
    return strncmp(relation, "/r/dbpedia/", 11) == 0 || strcmp(relation, "/r/ExternalURL") == 0;
}

/* The line in `text`, which is cut to pieces. */
static cb_record_step read_edge(const cb_records *records, int64_t line, char *text, cb_record_text *record)
{
    char *fields[5], *rest = text;
    for (int i = 0; i < 5; i++)
        if (!(fields[i] = strsep(&rest, "\t")))
            return refuse(records, line, "ConceptNet",
                          "found fewer than five fields between tabs, expected an edge, its relation, start, end and data");
    if (is_of_other_graphs(fields[1]))
        return CB_RECORD_NONE;
    const char *values[4], *object_language;
    if (strncmp(fields[1], "/r/", 3) != 0 || !fields[1][3])
        return refuse(records, line, "ConceptNet", "the relation does not begin with /r/");
    if (!split_term(fields[2], &values[3], &values[0]) || !split_term(fields[3], &object_language, &values[2]))
        return refuse(records, line, "ConceptNet", "start or end is not of the form /c/LANGUAGE/TERM");
    values[1] = fields[1] + 3;
    cb_record_step step = fill(records, line, values, record);
    record->object_language = object_language;
    return step;
}

cb_record_step cb_records_read_conceptnet(cb_records *records, cb_record_text *record)
{
    cb_input *in = &records->input;
    cb_record_step step = CB_RECORD_NONE;
    while (step == CB_RECORD_NONE && in->at < in->size) {
        const char *begin = in->bytes + in->at, *newline = memchr(begin, '\n', in->size - in->at);
        size_t length = newline ? (size_t)(newline - begin) : in->size - in->at;
        int64_t line = in->line;
        cb_string_clear(&records->prompt);
        if (!cb_input_check(in, in->at + length))
            return CB_RECORD_FAILED;
        if (memchr(begin, 0, length))
            return refuse(records, line, "ConceptNet", "found a NUL character, expected text");
        if (!cb_string_append(&records->prompt, begin, length))
            return CB_RECORD_FAILED;
        cb_input_move(in, in->at + length + (newline != NULL));
        if (length)
            step = read_edge(records, line, records->prompt.data, record);
    }
    return step;
}
