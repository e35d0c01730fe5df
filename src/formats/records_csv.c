/* records_csv.c: records as rows of CSV or TSV, quoted as in RFC 4180: a field in quotes may hold separators, line ends
 * and doubled quotes.  A quote within a field that does not begin with one is a quote; so are all where tables are unquoted, as GLUE's are.  The first row names the columns;
 * columns with other names than a record's fields are passed over. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "formats/records.h"

static CB_COLD bool refuse(const cb_records *records, int64_t line, const char *problem)
{
    return cb_fail(CB_ERR_FORMAT, "%s:%lld: %s", records->input.path, (long long)line, problem) == CB_OK;
}

/* ---- fields ---- */

/* Ends of an unquoted field. */
static bool ends_field(const cb_input *in, size_t at, char separator)
{
    char c = in->bytes[at];
    return c == separator || c == '\n' || (c == '\r' && at + 1 < in->size && in->bytes[at + 1] == '\n');
}

/* Appends the inside of a quoted field that begins at *at; *at is then behind the closing quote. */
static bool quoted_field(cb_records *records, size_t *at)
{
    const cb_input *in = &records->input;
    for (size_t i = *at + 1;;) {
        const char *begin = in->bytes + i, *quote = memchr(begin, '"', in->size - i);
        if (!quote)
            return refuse(
                records, in->line,
                "found the end of the file within quotes that begin in this row, expected their end; --quoting none reads quotes as "
                "they stand");
        bool doubled = quote + 1 < in->bytes + in->size && quote[1] == '"';
        if (!cb_string_append(&records->csv.row, begin, (size_t)(quote - begin) + doubled))
            return false;
        i = (size_t)(quote - in->bytes) + 1 + doubled;
        if (doubled)
            continue;
        *at = i;
        return true;
    }
}

static bool add_field(cb_records *records, size_t *at, char separator)
{
    const cb_input *in = &records->input;
    cb_csv *csv = &records->csv;
    if (!cb_grow(&csv->starts, &csv->capacity, csv->count + 1, sizeof *csv->starts))
        return false;
    csv->starts[csv->count++] = csv->row.length;
    if (!records->options.unquoted && *at < in->size && in->bytes[*at] == '"') {
        if (!quoted_field(records, at))
            return false;
        if (*at < in->size && !ends_field(in, *at, separator))
            return refuse(
                records, in->line,
                "found more after the closing quote of a field in this row, expected a separator or the line's end; --quoting none reads "
                "quotes as they stand");
    } else {
        size_t end = *at;
        while (end < in->size && !ends_field(in, end, separator))
            end++;
        if (!cb_string_append(&csv->row, in->bytes + *at, end - *at))
            return false;
        *at = end;
    }
    return cb_string_append(&csv->row, "", 1);
}

/* ---- rows ---- */

static size_t line_end_at(const cb_input *in, size_t at)
{
    return in->bytes[at] == '\n' ? 1 : in->bytes[at] == '\r' && at + 1 < in->size && in->bytes[at + 1] == '\n' ? 2 : 0;
}

/* Reads the next row that is not empty into csv->row. */
static cb_record_step read_row(cb_records *records, char separator, int64_t *line)
{
    cb_input *in = &records->input;
    cb_csv *csv = &records->csv;
    while (in->at < in->size && line_end_at(in, in->at))
        cb_input_move(in, in->at + line_end_at(in, in->at));
    if (in->at == in->size)
        return CB_RECORD_NONE;
    *line = in->line;
    csv->count = 0;
    cb_string_clear(&csv->row);
    size_t at = in->at;
    for (bool more = true; more;) {
        if (!add_field(records, &at, separator))
            return CB_RECORD_FAILED;
        more = at < in->size && in->bytes[at] == separator;
        at += more;
    }
    if (!cb_input_check(in, at))
        return CB_RECORD_FAILED;
    if (memchr(in->bytes + in->at, '\0', at - in->at)) {
        refuse(records, in->line, "found a NUL character in this row, expected text");
        return CB_RECORD_FAILED;
    }
    cb_input_move(in, at < in->size ? at + line_end_at(in, at) : at);
    return CB_RECORD_FOUND;
}

/* ---- the header and the records ---- */

/* Finds the one column of a name; -1: there is none, -2: there are several. */
static int column_of(const cb_csv *csv, const char *name)
{
    int found = -1;
    for (size_t i = 0; i < csv->count; i++)
        if (strcmp(csv->row.data + csv->starts[i], name) == 0)
            found = found == -1 ? (int)i : -2;
    return found;
}

static bool read_header(cb_records *records, int64_t line)
{
    cb_csv *csv = &records->csv;
    csv->columns = csv->count;
    for (int f = 0; f < CB_FIELD_NAMES; f++) {
        const char *name = NULL;
        csv->column[f] = -1;
        for (int n = 0; csv->column[f] == -1 && f != CB_FIELD_MESSAGES && (name = cb_record_field_name(records, f, n)); n++)
            csv->column[f] = column_of(csv, name);
        if (csv->column[f] == -2)
            return cb_fail(CB_ERR_FORMAT, "%s:%lld: found two columns named %s, expected one", records->input.path, (long long)line,
                           name) == CB_OK;
    }
    const int *c = csv->column;
    if (records->options.form == CB_RECORDS_TRIPLES)
        return cb_record_check_triple_header(records, line);
    if (records->options.form != CB_RECORDS_OF_TEXT)
        return cb_record_check_labelled_header(records, line);
    if (c[CB_FIELD_TEXT] >= 0 || (c[CB_FIELD_PROMPT] >= 0 && c[CB_FIELD_COMPLETION] >= 0) ||
        (c[CB_FIELD_INSTRUCTION] >= 0 && c[CB_FIELD_OUTPUT] >= 0) || (c[CB_FIELD_INPUT] >= 0 && c[CB_FIELD_TARGET] >= 0))
        return true;
    const char *commas = csv->count == 1 && strpbrk(csv->row.data, ";\t") ? ", between commas" : "";
    return cb_fail(CB_ERR_FORMAT,
                   "%s:%lld: found %zu columns, the first named \"%.50s\", expected a header with %s, or %s and %s%s; --columns "
                   "prompt=NAME,completion=NAME names others",
                   records->input.path, (long long)line, csv->count, csv->row.data, records->names[CB_FIELD_TEXT],
                   records->names[CB_FIELD_PROMPT], records->names[CB_FIELD_COMPLETION], commas) == CB_OK;
}

static cb_record_step read_task(const cb_records *records, cb_record_text *record)
{
    int column = records->csv.column[CB_FIELD_TASK_IDS];
    const char *text = column < 0 ? "" : records->csv.row.data + records->csv.starts[column];
    if (!*text)
        return CB_RECORD_FOUND;
    size_t digits = strspn(text, "0123456789");
    return cb_record_set_task(records, !text[digits] && digits < 10 ? strtoll(text, NULL, 10) : -1, record);
}

/* Numbers between blanks or commas. */
static cb_record_step read_conditions(cb_records *records, cb_record_text *record)
{
    int column = records->csv.column[CB_FIELD_CONDITIONS];
    const char *at = column < 0 ? "" : records->csv.row.data + records->csv.starts[column];
    for (at += strspn(at, " ,\t"); *at; at += strspn(at, " ,\t")) {
        char *end;
        double value = strtod(at, &end);
        if (end == at || (*end && !strchr(" ,\t", *end)))
            value = NAN;
        if (cb_record_add_condition(records, value, record) != CB_RECORD_FOUND)
            return CB_RECORD_FAILED;
        at = end;
    }
    return CB_RECORD_FOUND;
}

static cb_record_step fill_row(cb_records *records, int64_t line, cb_record_text *record)
{
    const cb_csv *csv = &records->csv;
    const char *values[CB_FIELDS];
    for (int f = 0; f < CB_FIELDS; f++)
        values[f] = csv->column[f] < 0 ? NULL : csv->row.data + csv->starts[csv->column[f]];
    return cb_record_fill(records, line, values, record);
}

static cb_record_step read_table(cb_records *records, char separator, cb_record_text *record)
{
    cb_csv *csv = &records->csv;
    int64_t line;
    cb_record_step step = read_row(records, separator, &line);
    if (step == CB_RECORD_FOUND && !csv->columns) {
        if (!read_header(records, line))
            return CB_RECORD_FAILED;
        step = read_row(records, separator, &line);
    }
    if (step != CB_RECORD_FOUND)
        return step;
    if (csv->count != csv->columns) {
        cb_fail(CB_ERR_FORMAT, "%s:%lld: found %zu fields, expected %zu as in the header", records->input.path, (long long)line, csv->count,
                csv->columns);
        return CB_RECORD_FAILED;
    }
    cb_record_form form = records->options.form;
    step = form == CB_RECORDS_OF_TEXT   ? fill_row(records, line, record)
           : form == CB_RECORDS_TRIPLES ? cb_record_fill_triple_row(records, line, record)
                                        : cb_record_fill_labelled_row(records, line, record);
    if (step == CB_RECORD_FOUND)
        step = read_conditions(records, record);
    return step == CB_RECORD_FOUND ? read_task(records, record) : step;
}

cb_record_step cb_records_read_csv(cb_records *records, cb_record_text *record)
{
    return read_table(records, ',', record);
}

cb_record_step cb_records_read_tsv(cb_records *records, cb_record_text *record)
{
    return read_table(records, '\t', record);
}
