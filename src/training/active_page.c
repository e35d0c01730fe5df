/* active_page.c: a round's questions as a page for a browser: it shows images or texts with the model's guess, takes a label for each and gives the finished
 * CSV back as a download.  The page needs no server, and what it shows lies beside it.
 *
 * What comes from files goes into the page as JSON alone, without a '<', and is put into the document as text, so that no name of a file is markup. */
#include <string.h>

#include "core/json.h"
#include "training/active.h"

static const char head[] =
    "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Labels</title>\n<style>\n"
    "body{font:15px sans-serif;margin:1em}#bar{position:sticky;top:0;background:#fff;padding:.5em 0;border-bottom:1px solid #999}\n"
    "#items{display:flex;flex-wrap:wrap;gap:1em;margin-top:1em}figure{margin:0;padding:.5em;border:1px solid #bbb;max-width:30em}\n"
    "figure.done{background:#e8f4e8}img{min-width:8em;max-width:20em;max-height:16em;image-rendering:pixelated;display:block}\n"
    "figcaption{font-size:85%;color:#444;overflow-wrap:anywhere}p{white-space:pre-wrap}button,select{margin:.2em .2em 0 0}\n"
    "</style></head><body>\n<div id=\"bar\"><b id=\"left\"></b> <button id=\"save\">Save</button> <span id=\"how\"></span></div>\n"
    "<div id=\"items\"></div>\n<script>\nconst page = ";
static const char tail[] =
    ";\n"
    "const make = (kind, text, into) => { const e = document.createElement(kind); e.textContent = text; into.append(e); return e; };\n"
    "const field = t => /[\",\\r\\n]/.test(t) ? '\"' + t.replaceAll('\"', '\"\"') + '\"' : t;\n"
    "const answers = page.items.map(() => '');\n"
    "function count() {\n"
    "  const left = answers.filter(a => !a).length;\n"
    "  document.getElementById('left').textContent = left ? left + ' of ' + answers.length + ' to label.' : 'All labelled.';\n"
    "}\n"
    "page.items.forEach((item, i) => {\n"
    "  const figure = make('figure', '', document.getElementById('items'));\n"
    "  if (item.image) make('img', '', figure).src = item.image;\n"
    "  if (item.text) make('p', item.text, figure);\n"
    "  const choice = make('select', '', figure);\n"
    "  ['', ...page.labels, '?'].forEach(l => { make('option', l === '?' ? '? (cannot be told)' : l, choice).value = l; });\n"
    "  const guess = make('button', item.guess, figure);\n"
    "  guess.title = 'what the model takes it for (' + item.probability + ')';\n"
    "  make('figcaption', item.file, figure);\n"
    "  const take = l => { answers[i] = choice.value = l; figure.className = l ? 'done' : ''; count(); };\n"
    "  choice.onchange = () => take(choice.value);\n"
    "  guess.onclick = () => take(item.guess);\n"
    "});\n"
    "document.getElementById('how').textContent = 'Put the file in the place of ' + page.name + ', and run the command again.';\n"
    "document.getElementById('save').onclick = () => {\n"
    "  const lines = page.items.map((item, i) => [item.file, answers[i], item.guess, item.probability].map(field).join(','));\n"
    "  const link = document.createElement('a');\n"
    "  link.href = URL.createObjectURL(new Blob(['file,label,guess,probability\\n' + lines.join('\\n') + '\\n'], {type: 'text/csv'}));\n"
    "  link.download = page.name;\n"
    "  link.click();\n"
    "};\ncount();\n</script></body></html>\n";

/* ---- images ---- */

/* Beside the page, no larger than it shows them. */
static bool write_image(const cb_active *a, int64_t row, const char *path)
{
    enum { MOST = 512 };
    cb_image image = {0}, small = {0};
    bool ok = cb_dataset_row_image(a->pool, row, &image);
    int64_t longest = image.width > image.height ? image.width : image.height;
    if (ok && longest > MOST) {
        int64_t width = image.width * MOST / longest, height = image.height * MOST / longest;
        ok = cb_image_resize(&image, width ? width : 1, height ? height : 1, CB_RESAMPLE_BILINEAR, NULL, &small);
    }
    ok = ok && cb_image_write_png(path, small.pixels ? &small : &image);
    cb_image_free(&image);
    cb_image_free(&small);
    return ok;
}

/* "round-1-images/1.png" */
static bool put_image(const cb_active *a, int64_t row, size_t number, json_t *item)
{
    char *name = cb_format("round-%lld-images/%zu.png", (long long)a->round, number + 1), *path = name ? cb_path_join(a->work, name) : NULL;
    bool ok = path && write_image(a, row, path) && cb_json_put(item, "image", json_string(name));
    cb_free(name);
    cb_free(path);
    return ok;
}

/* ---- the page ---- */

static json_t *item_of(const cb_active *a, const active_question *q, size_t number, const float *probabilities, const char *text)
{
    json_t *item = json_object();
    int64_t k = (int64_t)a->labels.count, guess = 0;
    const float *p = probabilities + q->row * k;
    for (int64_t i = 1; i < k; i++)
        guess = p[i] > p[guess] ? i : guess;
    char *probability = cb_format("%.3f", (double)p[guess]);
    bool ok = probability && cb_json_put(item, "file", json_string(a->source[q->row])) &&
              cb_json_put(item, "guess", json_string(a->labels.items[guess])) &&
              cb_json_put(item, "probability", json_string(probability)) &&
              (text ? cb_json_put(item, "text", json_string(text)) : put_image(a, q->row, number, item));
    cb_free(probability);
    if (ok)
        return item;
    json_decref(item);
    return NULL;
}

static json_t *describe(const cb_active *a, const active_question *questions, size_t count, const float *probabilities,
                        const cb_string_list *texts)
{
    json_t *page = json_object(), *labels = json_array(), *items = json_array();
    char *name = cb_format("round-%lld.csv", (long long)a->round);
    bool ok = name && cb_json_put(page, "name", json_string(name));
    for (size_t i = 0; ok && i < a->labels.count; i++)
        ok = cb_json_add(labels, json_string(a->labels.items[i]));
    for (size_t i = 0; ok && i < count; i++) {
        json_t *item = item_of(a, &questions[i], i, probabilities, texts->count ? texts->items[i] : NULL);
        ok = item && cb_json_add(items, item);
    }
    bool put = cb_json_put(page, "labels", labels);
    ok = cb_json_put(page, "items", items) && put && ok;
    cb_free(name);
    if (ok)
        return page;
    json_decref(page);
    return NULL;
}

static bool without_markup(cb_string *out, const char *json)
{
    bool ok = true;
    for (const char *at = json; ok && *at;) {
        size_t plain = strcspn(at, "<");
        ok = cb_string_append(out, at, plain) && (!at[plain] || cb_string_puts(out, "\\u003c"));
        at += plain + (at[plain] != 0);
    }
    return ok;
}

bool cb_active_write_page(const cb_active *a, const active_question *questions, size_t count, const float *probabilities,
                          const cb_string_list *texts)
{
    char *images = cb_active_path(a, a->round, "-images"), *path = cb_active_path(a, a->round, ".html");
    cb_string out = {0};
    bool ok = images && path && (texts->count || cb_directory_make(images));
    json_t *page = ok ? describe(a, questions, count, probabilities, texts) : NULL;
    char *json = page ? cb_json_dump(page, false) : NULL;
    ok = json && cb_string_puts(&out, head) && without_markup(&out, json) && cb_string_puts(&out, tail) &&
         cb_file_write(path, out.data, out.length);
    json_decref(page);
    cb_free(json);
    cb_free(images);
    cb_free(path);
    cb_string_free(&out);
    return ok;
}
