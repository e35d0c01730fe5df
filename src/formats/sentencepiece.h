/* sentencepiece.h: a SentencePiece model (sentencepiece_model.proto), as its file has it. */
#ifndef CB_FORMATS_SENTENCEPIECE_H
#define CB_FORMATS_SENTENCEPIECE_H

#include "cambium/core.h"

typedef enum cb_spm_type { CB_SPM_NORMAL = 1, CB_SPM_UNKNOWN, CB_SPM_CONTROL, CB_SPM_USER_DEFINED, CB_SPM_UNUSED, CB_SPM_BYTE } cb_spm_type;

typedef struct cb_spm_piece {
    char *text; /* well-formed, without NUL characters */
    size_t length;
    float score;
    cb_spm_type type;
} cb_spm_piece;

typedef enum cb_spm_model_type { CB_SPM_UNIGRAM = 1, CB_SPM_BPE, CB_SPM_WORD, CB_SPM_CHAR } cb_spm_model_type;

typedef struct cb_spm {
    cb_spm_piece *pieces; /* by id */
    size_t count, capacity;
    cb_spm_model_type model_type;
    bool byte_fallback, add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces, whitespace_as_suffix;
    int32_t unk_id, bos_id, eos_id; /* below 0: none */
    uint8_t *charsmap;              /* rules of the normaliser Precompiled; NULL: none */
    size_t charsmap_length;
} cb_spm;

/* Reads a model from memory; `what` names it in messages. */
bool cb_spm_parse(cb_spm *model, const char *what, const void *bytes, size_t length);
void cb_spm_free(cb_spm *model);

#endif
