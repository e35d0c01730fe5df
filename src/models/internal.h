/* internal.h: what the files of this folder share: a loaded model, how an architecture describes itself, where weights
 * come from.
 *
 * An architecture is one entry of a table: names, how its config.json is read, how its layers are made, and what one of
 * its blocks computes.  Everything else (the loop over blocks, scopes, checkpointing, cache, head, loss, generation,
 * saving) is common. Shape letters: B batch, T time, C width, H heads, D head size, V vocabulary. */
#ifndef CB_MODELS_INTERNAL_H
#define CB_MODELS_INTERNAL_H

#include "cambium/formats.h"
#include "cambium/models.h"
#include "core/json.h"

typedef enum cb_activation {
    CB_ACT_SILU,
    CB_ACT_GELU,
    CB_ACT_GELU_TANH,
    CB_ACT_QUICK_GELU,
    CB_ACT_RELU,
    CB_ACT_RELU6,
    CB_ACT_TANH,
    CB_ACT_NONE,
    CB_ACT_OF_CONFIG, /* of a head: the model's */
    CB_ACT_OF_POOLER  /* DeBERTa's, of pooler_hidden_act */
} cb_activation;

/* ---- rotary tables ---- */

typedef struct cb_rope_table {
    int kind;     /* index into the kinds of rope.c */
    int64_t dims; /* R: how many of a head's dimensions turn */
    double theta, factor, low_freq_factor, high_freq_factor, attention_factor, beta_fast, beta_slow, mscale, mscale_all_dim;
    bool truncate;
    int64_t original_max_positions, max_positions;
    float *factors;       /* longrope: R / 2 for short sequences, R / 2 for long ones; else NULL */
    cb_tensor *cos, *sin; /* (rows, R / 2) f32, or NULL so far */
    int64_t rows;
    int64_t scaled_for; /* dynamic: the length the frequencies are for */
} cb_rope_table;

/* Reads rope_theta and rope_scaling (transformers 4) or rope_parameters (5). */
bool cb_rope_configure(cb_rope_table *rope, const char *file, const json_t *config, int64_t head_dim, int64_t max_positions);
/* Makes sure the tables cover positions 0 .. positions - 1. */
bool cb_rope_prepare(cb_rope_table *rope, int64_t positions);
void cb_rope_clear(cb_rope_table *rope); /* the tables */
void cb_rope_free(cb_rope_table *rope);  /* and the factors */

/* ---- a model ---- */

typedef struct cb_model_config {
    int64_t vocab_size, width, layers, heads, kv_heads, head_dim, mlp_width, max_positions;
    int64_t shared;         /* recursive: block i has the weights of block i mod shared; 0: each has its own */
    int64_t token_types;    /* BERT's kin: rows of their embedding; 0: none */
    int64_t projection;     /* CLIP: width of its features */
    int64_t end_token;      /* of texts whose features are its */
    int32_t decoder_start;  /* with an encoder: what targets begin with */
    int64_t first_position; /* RoBERTa's kin: the row of a text's first position, since the first rows stand for padding */
    int64_t channels, image_size[2], patch_size[2]; /* of images: height, width; image_size 0: any */
    int64_t nodes, context, prediction, targets;    /* of series: nodes 0: any; steps that are read and foretold, channels that are */
    int64_t output_channels;                        /* of networks that denoise */
    int64_t class_rows;                             /* of networks that denoise: rows of their table of classes; 0: there is none */
    double eps, initializer_range;
    double head_scale;    /* T5: what the head reads is multiplied by this; 0: it is not */
    double initial_value; /* of what starts as one number: ConvNeXt's layer scales, CLIP's logit_scale */
    int64_t blank;        /* CTC */
    bool tied, zero_infinity;
    cb_activation activation, pooler_activation;
} cb_model_config;

/* A convolution, the norm behind it (of batches, or of groups where it has some; or NULL), and the activation behind that. */
typedef struct cb_conv_unit {
    cb_layer *conv, *norm;
    cb_activation activation;
    bool pads; /* before it convolves with a stride, as TensorFlow does: what does not come out even goes behind */
} cb_conv_unit;

#define CB_CONV_UNITS 4

/* The layers of one block of a transformer or a convolutional network; those an architecture does not have are NULL. */
typedef struct cb_block {
    cb_layer *layer, *attention, *mlp;
    cb_layer *attention_norm, *mlp_norm;
    cb_layer *q, *k, *v, *o, *q_norm, *k_norm; /* GPT-2: q is c_attn, which gives all three */
    cb_layer *gate, *up, *down;
    cb_conv_unit units[CB_CONV_UNITS], shortcut;
    int unit_count;
    bool adds_input; /* MobileNetV2 */
    int64_t window;  /* of attention; 0: none */
    double scale;    /* of attention; 0: 1 / sqrt(D) */
} cb_block;

/* What a row is judged by. */
typedef enum cb_pooling {
    CB_POOL_FIRST,       /* its first token */
    CB_POOL_LAST,        /* its last token */
    CB_POOL_END,         /* its first end token (cb_model_config.end_token); 2: its largest, as the first CLIPs have it */
    CB_POOL_MEAN,        /* the mean of its tokens, or of its places (B, C, H, W) */
    CB_POOL_MEAN_PATCHES /* the mean of its tokens but the first */
} cb_pooling;

/* CLIP's two models, and the encoder that a decoder reads: each has a configuration and blocks of its own, CLIP's also a head. */
enum { CB_TOWER_IMAGES, CB_TOWER_TEXT, CB_TOWER_ENCODER, CB_TOWERS, CB_CLIP_TOWERS = CB_TOWER_ENCODER };

/* One of the heads of an architecture; names are those of whole layers. */
typedef struct cb_head_plan {
    cb_head_kind kind;
    const char *class_end;             /* "ForMaskedLM" */
    const char *dense, *norm, *output; /* NULL: it has no such layer; without an output `dense` is kept, where there is one, and not run */
    const char *second;                /* another one like `output`, of the second token: logits are the mean of both */
    const char *projection;            /* of features, without a bias: (config.projection, width) */
    cb_activation activation;          /* behind `dense` */
    bool bias;                         /* of `output` */
    bool group_bias;                   /* the bias of `output` stands beside it: cls.predictions.bias */
    cb_pooling pooling;                /* of heads that judge rows */
    bool maps_first;                   /* of them: `output` is a convolution, and its rectified maps are averaged (SqueezeNet) */
    bool each_channel;                 /* of series: `output` gives the steps of one channel at a time */
} cb_head_plan;

/* What judges each place of an image, by one layer on the last maps or patches. */
#define CB_PLACE_HEAD(kind_, end, layer)                                                                                                   \
    {                                                                                                                                      \
        .kind = kind_, .class_end = end, .output = layer, .bias = true                                                                     \
    }
#define CB_PLACE_HEADS(layer)                                                                                                              \
    CB_PLACE_HEAD(CB_HEAD_SEMANTIC_SEGMENTATION, "ForSemanticSegmentation", layer),                                                        \
        CB_PLACE_HEAD(CB_HEAD_DEPTH_ESTIMATION, "ForDepthEstimation", layer),                                                              \
        CB_PLACE_HEAD(CB_HEAD_SURFACE_NORMALS, "ForSurfaceNormals", layer), CB_PLACE_HEAD(CB_HEAD_SALIENCY, "ForSaliency", layer),         \
        CB_PLACE_HEAD(CB_HEAD_DENSE_REGRESSION, "ForDenseRegression", layer)
/* The heads of a network whose feature maps are averaged for a class: its classifier, those of places, and none. */
#define CB_MAP_HEADS(classifier_, maps_first_)                                                                                             \
    {.kind = CB_HEAD_IMAGE_CLASSIFICATION,                                                                                                 \
     .class_end = "ForImageClassification",                                                                                                \
     .pooling = CB_POOL_MEAN,                                                                                                              \
     .output = classifier_,                                                                                                                \
     .bias = true,                                                                                                                         \
     .maps_first = maps_first_},                                                                                                           \
        CB_PLACE_HEADS("decode_head.classifier"), {.kind = CB_HEAD_NONE, .class_end = "Model", .pooling = CB_POOL_MEAN},                   \
    {                                                                                                                                      \
        0                                                                                                                                  \
    }

/* A head whose logits are numbers of places: how many, what they are called, and the losses they are learned by, the usual one first. */
enum { CB_DENSE_NUMBERS = 3, CB_DENSE_LOSSES = 3 };
typedef struct cb_dense_facts {
    cb_head_kind kind;
    int64_t numbers;
    const char *names[CB_DENSE_NUMBERS];
    cb_dense_loss_kind losses[CB_DENSE_LOSSES];
} cb_dense_facts;

struct cb_architecture;

struct cb_model {
    const struct cb_architecture *architecture;
    char *directory;
    char *config_path;
    json_t *json; /* config.json as read; saving keeps what we do not know */
    cb_model_config config;
    cb_dtype dtype;
    bool keep_weights;
    cb_weights *file; /* the mapped checkpoint; NULL for a new model */
    cb_layer *root, *embedding, *position_embedding, *norm;
    cb_layer *type_embedding, *embedding_norm; /* BERT's kin */
    cb_layer *embeddings, *patches;            /* images: the group of tokens that stand beside patches; the first convolution, or stem's */
    cb_conv_unit stem[CB_CONV_UNITS];          /* convolutional networks: before the first block */
    int stem_count;
    void *details; /* the architecture's own, of cb_alloc(); or NULL */
    const cb_head_plan *head_plan;
    bool head_asked;    /* by the caller: what the file has not of it is new */
    bool head_follows;  /* and comes with an adapter */
    uint64_t head_seed; /* of that */
    char *head_new;     /* names of the weights that the checkpoint lacked; NULL: none */
    int64_t labels;
    cb_string_list label_names;
    cb_problem problem;
    const cb_dense_facts *dense; /* of heads of numbers of places (places.c); NULL: of others */
    cb_dense_loss_kind dense_loss;
    cb_layer *head_dense, *head_norm, *head; /* NULL: there is none */
    cb_layer *head_second;                   /* DeiT's, of its second token */
    cb_layer *projection;
    struct cb_model *towers[CB_TOWERS]; /* those it is made of, in its tree and with its file; NULL: none */
    const struct cb_model *whole;       /* of a tower: what it is a part of */
    cb_block *blocks;
    size_t block_count, block_capacity;
    cb_rope_table rope;
    int32_t eos[16];
    size_t eos_count;
    cb_blend *blend; /* of passes that name none, or NULL */
    cb_weigh_function *weigh;
    void *weigh_user;
};

/* Keys and values of one attention, kept for whoever asked for them. */
typedef struct cb_keys {
    cb_tensor *k, *v;
} cb_keys;

/* What a pass carries from block to block beside the hidden states. */
/* Rows of a pass that are texts at different places: where their keys and values are kept. */
typedef struct cb_slots cb_slots;
typedef struct cb_slot_rows {
    cb_slots *slots;
    cb_tensor *rows;    /* (B) i32: slot times rounds, plus the round */
    cb_tensor *lengths; /* (B) i32: of each row's text, with the tokens of this pass */
} cb_slot_rows;

typedef struct cb_pass {
    cb_context ctx;       /* positions filled in; segments those of the keys: with a cache, of everything so far */
    cb_tensor *cos, *sin; /* rotary tables or NULL */
    cb_keys prefix;       /* of the block's virtual tokens, or NULL */
    cb_tensor *bias;      /* added to the scores of all blocks' attention, (B or 1, H, Tq, Tk), or NULL */
    cb_tensor *states; /* the encoder's, (B, Ts, C); NULL: there is none, or the cache has the keys and values that blocks make of them */
    cb_tensor *source_mask; /* added to the scores of attention to them, (B, 1, 1, Ts), or NULL: all are seen */
    const cb_slot_rows *at; /* in place of a cache; or NULL */
    bool first_alone;       /* the last block, where nothing but each row's first token is read: it gives (B, 1, C) */
    bool keys_only;         /* a token that has left early: its state gives each block's keys and values and stays as it is */
    cb_keys *taken;         /* of virtual tokens on their way through the model: where the block's go; else NULL */
    cb_tensor *time;        /* of networks that denoise: what their blocks are told of timesteps, and classes, of each row; else NULL */
    cb_tensor *classes;     /* of them: (B, 1) i32, rows of the table of classes, or NULL */
} cb_pass;

typedef struct cb_weight_source cb_weight_source;

typedef struct cb_rename_rule cb_rename_rule;

typedef struct cb_architecture {
    const char *model_type, *class_prefix; /* "llama", "Llama" */
    const char *prefix;                    /* "model.": files of the bare model leave it out */
    const void *variant;                   /* the family's own: how its members differ */
    const cb_head_plan *heads;             /* ends with kind 0; what most of its kin have is the first */
    bool bidirectional;                    /* a token sees what comes after it: such a model cannot generate */
    bool ends_with_first;                  /* its last block can give the first tokens alone (cb_pass.first_alone) */
    bool images;                           /* it takes pixels (B, C, H, W), and cb_pass.ctx has no positions; else ids */
    bool series;                           /* it takes numbers in time (B, T, N, C), likewise */
    bool diffusers;                        /* config.json names it as _class_name, and the weights lie in diffusers' files */
    bool (*configure)(cb_model *model);
    bool (*build)(cb_model *model, cb_weight_source *source);
    bool (*begin)(cb_model *model, const cb_tensor *input, cb_pass *pass);      /* fills in what the pass carries besides; may be NULL */
    cb_tensor *(*embed)(cb_model *model, cb_tensor *ids, const cb_pass *pass);  /* (B, T) -> (B, T, C); pixels: what blocks take */
    cb_tensor *(*position)(cb_model *model, cb_tensor *x, const cb_pass *pass); /* adds learned positions; may be NULL */
    cb_tensor *(*block)(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass); /* (B, T, C) -> (B, T, C) */
    cb_tensor *(*finish)(cb_model *model, cb_tensor *x, const cb_pass *pass); /* behind the last block, in place of norm; may be NULL */
    cb_tensor *(*norm)(const cb_layer *layer, cb_tensor *x, const cb_context *ctx); /* the last one; NULL: there is none */
    cb_tensor *(*maps_norm)(const cb_layer *layer, cb_tensor *x,
                            const cb_context *ctx);               /* instead, where places are judged; NULL: the same */
    int64_t (*frames)(const cb_model *model, int64_t length);     /* that it makes of so many columns; NULL: of none */
    char *(*other_name)(const cb_model *model, const char *name); /* of a tensor, in another naming of the network; NULL: it has none */
    const cb_rename_rule
        *modules; /* what transformers 5 calls layers, without the prefix, where files have other names, "": nothing; may be NULL */
} cb_architecture;

extern const cb_architecture cb_llama_family[]; /* ends with model_type NULL */
extern const cb_architecture cb_gpt2_family[];
extern const cb_architecture cb_bert_family[];
extern const cb_architecture cb_deberta_family[];
extern const cb_architecture cb_vit_family[];
extern const cb_architecture cb_resnet_family[];
extern const cb_architecture cb_clip_family[];
extern const cb_architecture cb_convnext_family[];
extern const cb_architecture cb_mobilenet_v2_family[];
extern const cb_architecture cb_swin_family[];
extern const cb_architecture cb_unet_family[];
extern const cb_architecture cb_segformer_family[];
extern const cb_architecture cb_squeezenet_family[];
extern const cb_architecture cb_gcgru_family[];
extern const cb_architecture cb_dlinear_family[];
extern const cb_architecture cb_unet_2d_family[];
extern const cb_architecture cb_crnn_family[];
extern const cb_architecture cb_t5_family[];
extern const cb_architecture cb_dit_family[];

/* ---- configuration ---- */

#define CB_REQUIRED INT64_MIN

typedef struct cb_config_field {
    const char *key;
    size_t offset;     /* of an int64_t in cb_model_config */
    int64_t otherwise; /* when missing or null; CB_REQUIRED: an error */
    int64_t min, max;
} cb_config_field;

/* Reads integers into model->config; the table ends with key NULL. */
bool cb_config_integers(cb_model *model, const cb_config_field *fields);
bool cb_config_activation(cb_model *model, const char *key, const char *otherwise);
/* By its name, which field `key` has. */
bool cb_config_activation_named(const cb_model *model, const char *key, const char *name, cb_activation *out);
/* The same of another one than the model's. */
bool cb_config_activation_of(const cb_model *model, const char *key, const char *otherwise, cb_activation *out);
/* Reads a list of 1 to `most` integers from `min` to `max`, or takes `otherwise`, `count` of them, where it is missing; returns how many
 * there are, 0 on failure. */
int64_t cb_config_list(const cb_model *model, const char *key, const int64_t *otherwise, int64_t count, int64_t most, int64_t min,
                       int64_t max, int64_t *out);
/* The same for a size: a number for both, or a list of height and width. */
bool cb_config_size(const cb_model *model, const char *key, int64_t otherwise, int64_t max, int64_t size[2]);
/* Reads a number from min to max. */
bool cb_config_number(const cb_model *model, const char *key, double otherwise, double min, double max, double *out);
/* Names file and field in front of what is said. */
bool cb_config_error(const cb_model *model, const char *format, ...) CB_PRINTF(2, 3);

/* ---- timm (timm.c) ---- */

/* What transformers would say of the network that a config.json of timm's names; NULL with an error. */
json_t *cb_timm_config(const char *path, const json_t *config);

/* A tensor whose name begins with `from` has one with `to` in its place in another naming; '%' stands for a number, the first of which grows by `add`.
 * part: it is one of three that lie behind one another there (fused q, k and v): 1 to 3. */
struct cb_rename_rule {
    const char *from, *to;
    int add, part;
};
#define CB_RENAME_PART "#" /* before "2/3", at the end of a name */
/* By the first rule that fits, the last has from NULL; NULL: none does, or (an error) there is no memory. */
char *cb_rename(const char *name, const cb_rename_rule *rules);
/* The name without the architecture's prefix. */
const char *cb_bare_name(const cb_model *model, const char *name);

/* ---- weights ---- */

typedef enum cb_initial {
    CB_INITIAL_NORMAL,
    CB_INITIAL_RESIDUAL,
    CB_INITIAL_KAIMING, /* of convolutions before a ReLU: sqrt(2 / (out KH KW)), He et al. 2015, arXiv:1502.01852 */
    CB_INITIAL_UNIFORM, /* from minus the config's initial_value to that */
    CB_INITIAL_ONES,
    CB_INITIAL_ZEROS,
    CB_INITIAL_VALUE /* the config's initial_value */
} cb_initial;

/* Gives `layer` its weight `name` (a literal): from the checkpoint, checked, or random. */
bool cb_source_weight(cb_weight_source *source, cb_layer *layer, const char *name, cb_initial initial, int ndim, const int64_t *shape);
/* A new linear layer with its weight, and bias when wanted. */
cb_layer *cb_source_linear(cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out, bool transposed,
                           bool bias, cb_initial initial);
cb_layer *cb_source_embedding(cb_weight_source *source, cb_layer *parent, const char *name, int64_t rows, int64_t width);
cb_layer *cb_source_norm(cb_weight_source *source, cb_layer *parent, const char *name, int64_t width, double eps, bool bias);
/* A new convolution with a square kernel. */
cb_layer *cb_source_conv(cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out, int64_t kernel,
                         cb_conv_options options, bool bias, cb_initial initial);
/* The same whose kernel has other sizes, height and width. */
cb_layer *cb_source_conv_of(cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out, const int64_t kernel[2],
                            cb_conv_options options, bool bias, cb_initial initial);
cb_layer *cb_source_batch_norm(cb_weight_source *source, cb_layer *parent, const char *name, int64_t channels, double eps);
/* A buffer of the layer, f32 in memory of its own: from the checkpoint, checked, or `otherwise` everywhere. */
bool cb_source_buffer(cb_weight_source *source, cb_layer *layer, const char *name, double otherwise, int ndim, const int64_t *shape);
/* A group `name` with the matrices of r->layers layers, r->hidden wide, of `inputs` inputs. */
bool cb_source_recurrent(cb_weight_source *source, cb_model *model, cb_layer *parent, const char *name, int64_t inputs, cb_recurrent *r);
/* The head of a vocabulary, which is tied to the embedding where the config says so and the checkpoint has no other. */
cb_layer *cb_source_head(cb_weight_source *source, cb_model *model, cb_layer *parent, const char *name, bool bias);
/* Whether there is a weight of this name, or there are none to look for. */
bool cb_source_has(const cb_weight_source *source, const char *name);
/* From now on what the file lacks is new, and the weights of layer `output` are so where they have another shape. */
void cb_source_allow_new(cb_weight_source *source, uint64_t seed, const char *output);
/* A new, frozen weight, as a model has it that is made from `seed`; kept by no one. */
cb_tensor *cb_weight_new(const cb_model *model, uint64_t seed, const char *name, cb_initial initial, int ndim, const int64_t *shape);
const char *cb_source_new(const cb_weight_source *source); /* names of the weights that were; NULL: there are none */
/* Runs architecture->build with weights from model->file, or random ones from `seed` when there is none. */
bool cb_model_build(cb_model *model, uint64_t seed);
/* The group that everything but the head is in; the root where there is no head, since transformers leaves the group out there. */
cb_layer *cb_model_top(const cb_model *model, const char *name);
/* A tower of this architecture, configured by a section of the model's config (NULL: by all of it); freed with the model. */
cb_model *cb_model_tower_new(const cb_model *model, const cb_architecture *architecture, const char *section);
/* Its layers, in the tree of the model that `source` is for. */
bool cb_model_build_tower(cb_model *tower, cb_weight_source *source);
/* The next block's slot, zeroed. */
cb_block *cb_model_add_block(cb_model *model);

/* ---- heads (head.c) ---- */

bool cb_head_configure(cb_model *model, const cb_model_options *options);
/* After everything else is built. */
bool cb_head_build(cb_model *model, cb_weight_source *source);
/* Reads the names of `count` labels, and what they are for, from the config (labels.c). */
bool cb_labels_configure(cb_model *model, int64_t count);
/* ---- numbers of places (places.c) ---- */

/* Finds what the head is for, and its loss, from the config.  False with an error. */
bool cb_places_configure(cb_model *model);
/* How many numbers such a head gives; 0: it is another. */
int64_t cb_places_numbers(cb_head_kind kind);
/* As cb_model_label_loss(). */
cb_tensor *cb_places_number_loss(const cb_model *model, cb_tensor *logits, cb_tensor *targets, double normalizer);
/* The first or last token of each row that is not padding, of the first where all are: (B, T, C) -> (B, C); which it is of a row. */
cb_tensor *cb_one_token(cb_tensor *x, const cb_tensor *segments, bool last);
int64_t cb_token_place(const cb_tensor *segments, int64_t row, int64_t length, bool last);
bool cb_head_reads_first(const cb_model *model);   /* it reads the first token of each row and nothing else */
bool cb_head_judges_rows(const cb_model *model);   /* its logits are (B, K) */
bool cb_head_judges_places(const cb_model *model); /* they are (B, K, h, w) */
/* What its last layer reads, (B, width), of what `input` gave. */
cb_tensor *cb_head_features(const cb_model *model, const cb_tensor *input, cb_tensor *hidden, const cb_context *ctx);
/* Both its logits and its features. */
cb_tensor *cb_head_judge(const cb_model *model, cb_tensor *hidden, const cb_context *ctx, cb_tensor **features);
cb_tensor *cb_head_judge_features(const cb_model *model, cb_tensor *features, const cb_context *ctx);
/* cb_model_head() with what is in ctx alone. */
cb_tensor *cb_head_run(const cb_model *model, cb_tensor *hidden, const cb_context *ctx);

/* ---- transformer blocks with the norms in front (encoder.c) ---- */

/* Names of a block's layers, seen from the block. */
typedef struct cb_encoder_names {
    const char *attention, *heads, *q, *k, *v, *attention_out, *o, *attention_norm; /* heads, attention_out: groups in attention, or NULL */
    const char *up_group, *up, *mlp, *down, *mlp_norm;                              /* up_group NULL: up is in mlp */
    bool norms_in_groups; /* attention_norm in attention_out, mlp_norm in mlp; else both stand in the block */
    bool o_in_heads;      /* o beside q, and there is no attention_out: what stands in it stands in attention */
} cb_encoder_names;

/* The next block, named `name` below `blocks`: width, heads and mlp_width of the config. */
bool cb_encoder_build(cb_model *model, cb_weight_source *source, cb_layer *blocks, const char *name, const cb_encoder_names *names,
                      bool qkv_bias);
/* Blocks 0, 1, ..., as many as the config has layers. */
bool cb_encoder_build_all(cb_model *model, cb_weight_source *source, cb_layer *blocks, const cb_encoder_names *names, bool qkv_bias);
/* x (B, T, C) -> (B, T, H, D) */
cb_tensor *cb_encoder_heads(const cb_layer *projection, cb_tensor *x, int64_t head_dim, const cb_context *ctx);
/* distance.c: an embedding (buckets, H) of distances between tokens. */
typedef struct cb_distances {
    const cb_layer *layer;
    int64_t buckets, furthest; /* from `furthest` on all have the last bucket */
    bool both_ways;            /* half of the buckets are of keys that come later than the query */
} cb_distances;
/* What distances add to the scores of Tk keys, the queries being at the last Tq of them: (1, H, Tq, Tk), or (rows, ...) where modules may differ by
 * row; f32. */
cb_tensor *cb_distance_bias(const cb_distances *d, int64_t rows, int64_t tq, int64_t tk, const cb_context *ctx);
/* x + attention(norm(x)), and x + mlp(norm(x)) of that: cb_architecture.block.  Causal unless the architecture is bidirectional. */
cb_tensor *cb_encoder_block(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass);
cb_tensor *cb_encoder_mlp(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass);
/* x + mlp(norm(x)) with an RMS norm, and gated where the block has a gate (Shazeer 2020, arXiv:2002.05202): Llama's and T5's. */
cb_tensor *cb_rms_mlp(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass);
/* With the norm behind the sum, as BERT has it: what a half ends with (cb_close_branch), normalised, and the half of the MLP. */
cb_tensor *cb_encoder_close_post(const cb_layer *host, const cb_layer *projection, const cb_layer *norm, cb_tensor *residual, cb_tensor *x,
                                 cb_tensor *inner, const cb_context *ctx);
cb_tensor *cb_encoder_mlp_post(const cb_model *model, int64_t index, cb_tensor *residual, const cb_pass *pass);

/* ---- images (pixels.c) ---- */

/* Reads num_channels, and image_size and patch_size, which must divide it. */
bool cb_pixels_configure_channels(cb_model *model);
bool cb_pixels_configure_patches(cb_model *model, int64_t image_size, int64_t patch_size);
/* Checks pixels (B, C, H, W), and that the context asks for nothing that images do not have. */
bool cb_pixels_begin(cb_pass *pass, cb_model *model, const cb_tensor *pixels);
/* A convolution of the pixels (B, C, H, W), which are cast to the model's dtype. */
cb_tensor *cb_pixels_conv(const cb_model *model, const cb_layer *conv, cb_tensor *pixels, const cb_context *ctx);
/* The same as tokens: (B, C, H, W) -> (B, H W, width), row by row. */
cb_tensor *cb_pixels_patches(const cb_model *model, const cb_layer *conv, cb_tensor *pixels, const cb_context *ctx);
/* (N, C, H, W) -> (N, H, W, C) and back; no copy where memory is channels-last. */
cb_tensor *cb_pixels_channels_behind(cb_tensor *x);
cb_tensor *cb_pixels_channels_in_front(cb_tensor *x);
/* Adds what is learned of places, (1, extra + places, width), to x (B, extra + h w, width): the patches of `pixels`, and `extra` tokens
 * before them.  Another size than the config's: see cb_context.interpolate_positions. */
cb_tensor *cb_pixels_add_positions(const cb_model *model, cb_tensor *x, cb_tensor *positions, int64_t extra, const cb_tensor *pixels,
                                   const cb_context *ctx);

/* ---- series of numbers in time (series.c) ---- */

/* Reads num_nodes (otherwise: `nodes`), num_input_channels, num_targets, context_length and prediction_length. */
bool cb_series_configure(cb_model *model, int64_t nodes);
/* Checks numbers (B, T, N, C), and that the context asks for nothing that series do not have. */
bool cb_series_begin(cb_pass *pass, cb_model *model, const cb_tensor *x);
/* What the last layer gives, (B, N, T C) or (B, N, C, T), as a forecast (B, T, N, C). */
cb_tensor *cb_series_arrange(const cb_model *model, cb_tensor *y);

/* ---- convolutional networks (conv_unit.c) ---- */

/* A group `name` below parent with `convolution` (no bias) and the batch norm `normalization`, of eps in the config. */
bool cb_conv_unit_build(cb_model *model, cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out,
                        int64_t kernel, cb_conv_options options, cb_activation activation, cb_conv_unit *unit);
/* The same where the norm is folded into the convolution, which then has a bias. */
bool cb_conv_unit_build_folded(cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out, int64_t kernel,
                               cb_conv_options options, cb_activation activation, cb_conv_unit *unit);
/* Normalised by groups of channels, activated, then convolved. */
cb_tensor *cb_conv_behind_norm(const cb_layer *norm, const cb_layer *conv, cb_activation activation, cb_tensor *x, const cb_context *ctx);
cb_tensor *cb_conv_unit_run(const cb_conv_unit *unit, cb_tensor *x, const cb_context *ctx);
/* One after another. */
cb_tensor *cb_conv_units_run(const cb_conv_unit *units, int count, cb_tensor *x, const cb_context *ctx);
/* What a residual block ends with: activation(x + residual). */
cb_tensor *cb_conv_close(cb_activation activation, cb_tensor *x, cb_tensor *residual);

/* ---- networks that denoise (denoiser.c) ---- */

/* Reads names of classes, of a table of class_rows rows: as many as id2label has, or as the architecture said. */
bool cb_denoiser_configure_classes(cb_model *model);
/* Checks that the pass says what such a network has to be told, and sets pass->classes. */
bool cb_denoiser_begin(const cb_model *model, const cb_tensor *pixels, cb_pass *pass);
/* Sines and cosines of timesteps (B) at `width` / 2 frequencies 10000^(-i / (width / 2 - shift)), cosines first where `flip`: (B, 1, width) in the
 * model's dtype.  Vaswani et al. 2017, as in diffusers' Timesteps. */
cb_tensor *cb_denoiser_waves(const cb_model *model, const cb_tensor *timesteps, int64_t width, bool flip, double shift);
/* Two linear layers with a SiLU between them, linear_1 and linear_2 below a group `name`: diffusers' TimestepEmbedding. */
typedef struct cb_time_layers {
    cb_layer *first, *second;
} cb_time_layers;
bool cb_time_layers_build(cb_weight_source *source, cb_layer *parent, const char *name, int64_t in, int64_t out, cb_time_layers *layers);
cb_tensor *cb_time_layers_run(const cb_time_layers *layers, cb_tensor *waves, const cb_context *ctx);

/* ---- forward ---- */

cb_tensor *cb_activate(cb_activation activation, cb_tensor *x);

/* What attention and MLP end with: host's own modules around projection(inner), added to the residual stream.  x is
 * what went into host. */
cb_tensor *cb_close_branch(const cb_layer *host, const cb_layer *projection, cb_tensor *residual, cb_tensor *x, cb_tensor *inner,
                           const cb_context *ctx);

/* The virtual tokens of a pass (prompt.c). */
typedef struct cb_prompt {
    const cb_module *module; /* NULL: there are none */
    int64_t tokens;
    cb_tensor *x; /* kept: what they are, (1 or B, tokens, C) so far where they go through the model */
    cb_pass pass; /* theirs */
    bool cached;  /* the cache has the keys and values of all blocks */
} cb_prompt;
/* How many there are before a text that begins: no failure to have none.  -1 on failure. */
int64_t cb_prompt_tokens(const cb_model *model, const cb_context *ctx);
/* Before the first block, once `pass` is complete. */
bool cb_prompt_begin(cb_prompt *prompt, cb_model *model, const cb_pass *pass);
/* Before each block: sets pass->prefix, which is kept until cb_prompt_next() or cb_prompt_end(). */
bool cb_prompt_next(cb_prompt *prompt, cb_model *model, int64_t index, cb_pass *pass);
void cb_prompt_end(cb_prompt *prompt, cb_pass *pass);
/* Asked after each round of a recursive model but the last, with what the head would be given (B, T, C): whether the pass ends there. */
typedef struct cb_leaving {
    bool (*leaves)(void *user, int64_t round, cb_tensor *hidden);
    void *user;
} cb_leaving;
/* cb_model_hidden() that may be left early.  The state goes from the round it leaves to the keys and values of all blocks behind it, as if
 * they had changed nothing: for later tokens, which may run further.  leaving NULL: nobody asks. */
cb_tensor *cb_hidden_leaving(cb_model *model, cb_tensor *ids, const cb_context *ctx, const cb_leaving *leaving);

/* One block with its modules, in a scope of its own. */
cb_tensor *cb_block_run(cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass);

/* What attention asks for is the whole residual stream, or, where the pass ends with first tokens, those: changes both to (B, 1, C), and `options`, so
 * that each sees what it would. */
bool cb_first_tokens(const cb_pass *pass, cb_tensor **residual, cb_tensor **x, cb_attention_options *options);

/* One half of a block. */
typedef cb_tensor *cb_branch(const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass);
/* Runs it in a scope of its own: what it made and the backward pass does not need is freed before the next begins; with ctx->checkpoint
 * nothing of it is kept, and the backward pass runs it again. */
cb_tensor *cb_branch_run(cb_branch *branch, const cb_model *model, int64_t index, cb_tensor *x, const cb_pass *pass);

/* ---- the source of a decoder (encoded.c) ---- */

/* Runs the encoder over the context's source, or takes what the cache has of it: sets pass->states and source_mask.  Nothing of models without
 * one. */
bool cb_encoded_begin(cb_pass *pass, cb_model *model, const cb_tensor *ids);
/* A context for what is computed of the source's tokens instead of the pass's. */
cb_context cb_encoded_context(const cb_context *ctx);

/* ---- early exits (exit.c) ---- */

typedef struct cb_exit {
    const cb_generate_options *options;
    int64_t rounds;     /* of the model */
    int32_t *likeliest; /* oracle: token after each round of this pass */
} cb_exit;

/* Errors: options that are out of range or that the model has no rounds for.  cb_exit_close() in any case. */
bool cb_exit_open(cb_exit *e, const cb_model *model, const cb_generate_options *options);
void cb_exit_close(cb_exit *e);
bool cb_exit_by_confidence(const cb_generate_options *options);
bool cb_exit_early(const cb_exit *e);        /* whether any token may leave, or the oracle looks on */
bool cb_exit_reads_logits(const cb_exit *e); /* of each round; else cb_exit_leaves() takes NULL */
/* Whether a token with these logits (V) after round 1, 2, ... before the last leaves there. */
bool cb_exit_leaves(cb_exit *e, int64_t round, const cb_tensor *logits);
/* Oracle: the first round whose likeliest token is that of the last round's logits. */
int64_t cb_exit_first_right(const cb_exit *e, const cb_tensor *logits);
/* The probability of the likeliest token less that of the next. */
double cb_confidence(const cb_tensor *logits);

/* ---- cache ---- */

/* Takes in the new keys and values of block `index`, where the pass keeps them, and gives those to attend to. */
bool cb_pass_extend(const cb_pass *pass, int64_t index, cb_tensor **k, cb_tensor **v, cb_attention_options *options);

/* Slots for `count` texts; each has room for `capacity` tokens in every round. */
cb_slots *cb_slots_new(const cb_model *model, int64_t count, int64_t capacity);
void cb_slots_free(cb_slots *slots);
bool cb_slots_reserve(cb_slots *slots, int64_t length); /* room for texts of so many tokens */
/* Keys and values of the virtual tokens before a slot's text, (1, P, Hkv, D): as many for every text. */
bool cb_slots_put_prefix(cb_slots *slots, int64_t slot, int64_t layer, cb_keys keys);
bool cb_slots_prefix(const cb_slot_rows *at, int64_t index, cb_keys *keys); /* of the rows; NULL: there are none */

bool cb_cache_begin(cb_cache *cache, const cb_model *model, int64_t batch, int64_t length);
/* Takes in the new keys and values of one layer and gives all there are so far. */
bool cb_cache_extend(cb_cache *cache, int64_t layer, cb_tensor **k, cb_tensor **v);
/* The same for segment ids, once a pass; NULL when no pass gives any. */
bool cb_cache_segments(cb_cache *cache, cb_tensor **segments);
/* Keys and values of virtual tokens, which all rows see: kept with those of the text that they are before. */
bool cb_cache_put_prefix(cb_cache *cache, int64_t layer, cb_keys keys);
cb_keys cb_cache_prefix(const cb_cache *cache, int64_t layer); /* NULL: there are none */
/* What attention to a source reads, which stays as it is while a text grows. */
void cb_cache_put_source_mask(cb_cache *cache, cb_tensor *mask); /* of the pass that begins a text; NULL: none */
cb_tensor *cb_cache_source_mask(const cb_cache *cache);
bool cb_cache_put_source(cb_cache *cache, int64_t layer, cb_keys keys);
cb_keys cb_cache_source(const cb_cache *cache, int64_t layer);
/* Row i becomes what row rows[i] was; of `count` rows, which may be others than there were. */
bool cb_cache_gather(cb_cache *cache, const int64_t *rows, int64_t count);
void cb_cache_end(cb_cache *cache); /* the pass is through: its tokens count */
/* In a rehearsal: as if so many more tokens had gone through, or as many as there is room for; returns how many. */
int64_t cb_cache_skip(cb_cache *cache, int64_t tokens);

#endif
