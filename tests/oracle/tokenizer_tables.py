"""Writes src/formats/tokenizer_tables.c: which code points the `tokenizers` package takes for a letter, a digit, a space and so
on.  The package's parts disagree with each other and with any one Unicode version (its regex engine, the Rust standard library
and three crates each carry their own tables), so each class is read off the package itself, one question per code point.

    python tests/oracle/tokenizer_tables.py > src/formats/tokenizer_tables.c
"""
import sys
import unicodedata

from tokenizers import Regex, normalizers, pre_tokenizers

CODES = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]
CHUNK = 1 << 16


def by_split(pre_tokenizer, left="a", right=" "):
    """For each code point c, the pieces of left + c + right as a tuple."""
    result = {}
    for start in range(0, len(CODES), CHUNK):
        codes = CODES[start:start + CHUNK]
        unit = len(left) + 1 + len(right)
        text = "".join(left + chr(c) + right for c in codes)
        pieces = [[] for _ in codes]
        for _, (begin, end) in pre_tokenizer.pre_tokenize_str(text):
            position = begin
            while position < end:
                index = position // unit
                stop = min(end, (index + 1) * unit)
                pieces[index].append((position - index * unit, stop - index * unit))
                position = stop
        result.update(zip(codes, map(tuple, pieces)))
    return result


def regex_class(pattern):
    """Code points that match a one-character regular expression."""
    found = set()
    splitter = pre_tokenizers.Split(Regex(pattern), "removed", True)
    for start in range(0, len(CODES), CHUNK):
        codes = CODES[start:start + CHUNK]
        text = "".join(map(chr, codes))
        for _, (begin, end) in splitter.pre_tokenize_str(text):
            found.update(codes[begin:end])
    return found


def vanishing(normalizer):
    return {c for c in CODES if normalizer.normalize_str(chr(c)) == ""}


def ranges(codes):
    out = []
    for c in sorted(codes):
        if out and out[-1][1] == c - 1:
            out[-1][1] = c
        else:
            out.append([c, c])
    return out


def wrap(cells):
    line, lines = "   ", []
    for cell in cells:
        if len(line) + len(cell) + 2 > 120:
            lines.append(line)
            line = "   "
        line += " " + cell + ","
    lines.append(line)
    return "\n".join(lines)


def emit_ranges(name, codes):
    cells = ["{0x%X, 0x%X}" % (a, b) for a, b in ranges(codes)]
    print("static const cb_code_range %s[] = {\n%s\n};\n" % (name, wrap(cells)))
    return name


CATEGORIES = "Lu Ll Lt Lm Lo Mn Mc Me Nd Nl No Pc Pd Ps Pe Pi Pf Po Sm Sc Sk So Zs Zl Zp Cc Cf".split()


def newer():
    """(first, last, category) of what the package's regex engine knows and Unicode 14 did not."""
    assert unicodedata.unidata_version == "14.0.0", unicodedata.unidata_version
    cells = []
    for category in CATEGORIES:
        found = regex_class(r"\p{%s}" % category)
        cells += [(a, b, category) for a, b in ranges(c for c in found if unicodedata.category(chr(c)) == "Cn")]
    return sorted(cells)


def inert(newer_codes):
    """Code points with a decomposition or a combining class today that the package's normal forms leave alone."""
    nfd, nfkd = normalizers.NFD(), normalizers.NFKD()

    def is_inert(c):
        x = chr(c)
        return nfkd.normalize_str(x) == x and nfd.normalize_str("a" + x + "\u0334") == "a" + x + "\u0334" and \
            nfd.normalize_str("a\u0345" + x) == "a\u0345" + x

    return {c for c in CODES if (c in newer_codes or unicodedata.decomposition(chr(c)) or unicodedata.combining(chr(c)))
            and is_inert(c)}


def scripts():
    """Classes of UnicodeScripts: a code point's class is the one representative it does not split from."""
    splitter = pre_tokenizers.UnicodeScripts()

    def splits(a, b):
        return len(splitter.pre_tokenize_str(a + b)) > 1

    runs = []
    for start in range(0, len(CODES), CHUNK):
        codes = CODES[start:start + CHUNK]
        for _, (begin, end) in splitter.pre_tokenize_str("".join(map(chr, codes))):
            for a, b in ranges(codes[begin:end]):
                runs.append((a, b))
    # A run of the text may hide "Any" code points (they never split): find them with two different neighbours.
    any_codes = {c for c in CODES if not splits("a", chr(c)) and not splits("\u0430", chr(c))}
    cells, representatives = [], []
    for a, b in runs:
        for first, last in ranges(c for c in range(a, b + 1) if c not in any_codes):
            for index, representative in enumerate(representatives):
                if not splits(representative, chr(first)):
                    break
            else:
                index = len(representatives)
                representatives.append(chr(first))
            if cells and cells[-1][1] == first - 1 and cells[-1][2] == index + 1:
                cells[-1][1] = last
            else:
                cells.append([first, last, index + 1])
    return cells


def main():
    sys.stdout.reconfigure(encoding="utf-8")
    print("/* tokenizer_tables.c: the character classes of the `tokenizers` package, read off it by\n"
          " * tests/oracle/tokenizer_tables.py (generated; edit that script, not this file).  A class names whose test it is:\n"
          " * regex_* Oniguruma, rust_* the Rust standard library and regex crate, and the package's own categories. */\n"
          '#include "formats/tokenizer_unicode.h"\n')
    whitespace = by_split(pre_tokenizers.Whitespace(), "a", " ")
    tables = [
        ("CB_CODE_LETTER", emit_ranges("regex_letter", regex_class(r"\p{L}"))),
        ("CB_CODE_NUMBER", emit_ranges("regex_number", regex_class(r"\p{N}"))),
        ("CB_CODE_SPACE", emit_ranges("regex_space", regex_class(r"\s"))),
        ("CB_CODE_RUST_WORD", emit_ranges("rust_word", {c for c, p in whitespace.items() if p == ((0, 2),)})),
        ("CB_CODE_RUST_SPACE", emit_ranges("rust_space", {c for c, p in by_split(pre_tokenizers.WhitespaceSplit(), "a", "a")
                                                         .items() if (1, 2) not in p and (0, 3) not in p})),
        ("CB_CODE_RUST_NUMERIC", emit_ranges("rust_numeric", {c for c, p in by_split(
            pre_tokenizers.Digits(individual_digits=True), "a", "a").items() if (1, 2) in p})),
        ("CB_CODE_PUNCTUATION", emit_ranges("punctuation", {c for c, p in by_split(
            pre_tokenizers.Punctuation("isolated"), "a", "a").items() if (1, 2) in p})),
        ("CB_CODE_COMBINING", emit_ranges("combining_mark", vanishing(normalizers.StripAccents()))),
        ("CB_CODE_NONSPACING", emit_ranges("nonspacing_mark", vanishing(normalizers.BertNormalizer(
            clean_text=False, handle_chinese_chars=False, strip_accents=True, lowercase=False)))),
        ("CB_CODE_CONTROL", emit_ranges("control", vanishing(normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=False, strip_accents=False, lowercase=False)))),
    ]
    newer_cells = newer()
    tables.append(("CB_CODE_INERT", emit_ranges("inert", inert(
        {c for a, b, _ in newer_cells for c in range(a, b + 1)}))))
    print("const cb_code_class cb_code_classes[] = {")
    for flag, name in tables:
        print("    {%s, %s, sizeof %s / sizeof *%s}," % (flag, name, name, name))
    print("};\nconst size_t cb_code_class_count = sizeof cb_code_classes / sizeof *cb_code_classes;\n")

    print("/* first, last, general category, of code points assigned after Unicode 14 */")
    print("const cb_code_newer cb_code_newers[] = {")
    print(wrap(['{0x%X, 0x%X, "%s"}' % cell for cell in newer_cells]))
    print("};\nconst size_t cb_code_newer_count = sizeof cb_code_newers / sizeof *cb_code_newers;\n")

    lower = normalizers.Lowercase()
    runs = []  # first, last, difference, step
    multiple = []
    for c in CODES:
        text = lower.normalize_str(chr(c))
        if text == chr(c):
            continue
        if len(text) > 1:
            multiple.append((c, text))
            continue
        difference = ord(text) - c
        if runs and runs[-1][2] == difference and c - runs[-1][1] in (1, 2) and \
                (runs[-1][0] == runs[-1][1] or c - runs[-1][1] == runs[-1][3]):
            runs[-1][3] = c - runs[-1][1]
            runs[-1][1] = c
        else:
            runs.append([c, c, difference, 1])
    assert multiple == [(0x130, "i\u0307")], multiple  # the one code point that lowers to two
    print("/* first, last, step, what to add */\nconst cb_code_lower cb_code_lowers[] = {")
    print(wrap(["{0x%X, 0x%X, %d, %d}" % (a, b, step, d) for a, b, d, step in runs]))
    print("};\nconst size_t cb_code_lower_count = sizeof cb_code_lowers / sizeof *cb_code_lowers;\n")

    print("/* first, last, class: Hiragana, Katakana and Han share one; 0 (absent here) never splits */")
    print("const cb_code_script cb_code_scripts[] = {")
    print(wrap(["{0x%X, 0x%X, %d}" % tuple(cell) for cell in scripts()]))
    print("};\nconst size_t cb_code_script_count = sizeof cb_code_scripts / sizeof *cb_code_scripts;")


if __name__ == "__main__":
    main()
