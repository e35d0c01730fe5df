/* systems.c: the published systems that define the scope: one line each, in the order of their numbers. */
#include <stdlib.h>
#include <string.h>

#include "cambium/methods.h"

/* One of which there are parts: what one calls, and a page. */
#define PARTS(number, name, title, venue, arxiv, how, page)                                                                                \
    {                                                                                                                                      \
        number, name, title, venue, arxiv, CB_SYSTEM_PARTS, how, page                                                                      \
    }
/* One that is whole: the same, and `cambium repro` makes its committed result. */
#define WHOLE(number, name, title, venue, arxiv, how, page)                                                                                \
    {                                                                                                                                      \
        number, name, title, venue, arxiv, CB_SYSTEM_WHOLE, how, page                                                                      \
    }
#define SYSTEM(number, name, title, venue, arxiv)                                                                                          \
    {                                                                                                                                      \
        number, name, title, venue, arxiv, CB_SYSTEM_PLANNED, NULL, NULL                                                                   \
    }

static const cb_system systems[] = {
    PARTS(1, "mtlora", "MTLoRA: A Low-Rank Adaptation Approach for Efficient Multi-Task Learning", "CVPR 2024", "2403.20320",
          "cambium train --kind mtlora", "docs/adapters.md"),
    PARTS(2, "petalface", "PETALface: Parameter Efficient Transfer Learning for Low-resolution Face Recognition", "WACV 2025", "2412.07771",
          "cambium train --kind petalface", "docs/adapters.md"),
    SYSTEM(3, "emma", "EMMA: Efficient Visual Alignment in Multi-Modal LLMs", "TMLR 2025", "2410.02080"),
    SYSTEM(4, "tfup", "Training-Free Unsupervised Prompt for Vision-Language Models", "preprint 2024", "2404.16339"),
    PARTS(5, "psec", "Skill Expansion and Composition in Parameter Space", "ICLR 2025", "2502.05932",
          "cb_gate_new(), cb_composition_blend()", "docs/composition.md"),
    WHOLE(6, "pego", "Learn to Preserve and Diversify: Parameter-Efficient Group with Orthogonal Regularization for Domain Generalization",
          "ECCV 2024", "2407.15085", "cambium train --kind pego", "docs/methods/pego.md"),
    WHOLE(7, "relaxed-recursive", "Relaxed Recursive Transformers: Effective Parameter Sharing with Layer-wise LoRA", "ICLR 2025",
          "2410.20672", "cambium tie, cambium pretrain --adapter, cambium generate --exit-confidence X --batching depth",
          "docs/methods/relaxed-recursive.md"),
    SYSTEM(8, "poseda", "Global Adaptation meets Local Generalization: Unsupervised Domain Adaptation for 3D Human Pose Estimation",
           "ICCV 2023", "2303.16456"),
    SYSTEM(9, "eventdance", "EventDance: Unsupervised Source-free Cross-modal Adaptation for Event-based Object Recognition", "CVPR 2024",
           "2403.14082"),
    SYSTEM(10, "graphecho", "GraphEcho: Graph-Driven Unsupervised Domain Adaptation for Echocardiogram Video Segmentation", "ICCV 2023",
           "2309.11145"),
    SYSTEM(11, "tryon-adapter", "TryOn-Adapter: Efficient Fine-Grained Clothing Identity Adaptation for High-Fidelity Virtual Try-On",
           "IJCV 2025", "2404.00878"),
    SYSTEM(12, "genda", "One-Shot Generative Domain Adaptation", "ICCV 2023", "2111.09876"),
    SYSTEM(13, "zeroi2v", "ZeroI2V: Zero-Cost Adaptation of Pre-trained Transformers from Image to Video", "ECCV 2024", "2310.01324"),
    WHOLE(14, "adcsd", "Online Test-Time Adaptation of Spatial-Temporal Traffic Flow Forecasting", "IEEE T-ITS 2024", "2401.04148",
          "cambium eval --online adcsd", "docs/methods/adcsd.md"),
    SYSTEM(15, "zerosmooth", "ZeroSmooth: Training-free Diffuser Adaptation for High Frame Rate Video Generation", "preprint 2024",
           "2406.00908"),
    SYSTEM(16, "master-asr", "Master-ASR: Achieving Multilingual Scalability and Low-Resource Adaptation in ASR with Modular Learning",
           "ICML 2023", "2306.15686"),
    SYSTEM(17, "crema", "CREMA: Multimodal Compositional Video Reasoning via Efficient Modular Adaptation and Fusion", "ICLR 2025",
           "2402.05889"),
    WHOLE(18, "dylora", "DyLoRA: Parameter-Efficient Tuning of Pre-trained Models using Dynamic Search-Free Low-Rank Adaptation",
          "EACL 2023", "2210.07558", "cambium train --kind dylora, --adapter-option use_rank=N", "docs/methods/dylora.md"),
    SYSTEM(19, "pill", "PILL: Plug Into LLM with Adapter Expert and Attention Gate", "preprint 2023", "2311.02126"),
    SYSTEM(20, "star-sgg",
           "STAR: A First-Ever Dataset and A Large-Scale Benchmark for Scene Graph Generation in Large-Size Satellite Imagery",
           "IEEE TPAMI 2025", "2406.09410"),
    PARTS(21, "codyra",
          "Adaptive Rank, Reduced Forgetting: Knowledge Retention in Continual Learning Vision-Language Models with Dynamic "
          "Rank-Selective LoRA",
          "preprint 2024", "2412.01004", "cambium train --kind codyra", "docs/adapters.md"),
    SYSTEM(22, "calm", "Causal Evaluation of Language Models", "preprint 2024", "2405.00622"),
    SYSTEM(23, "pvp", "PVP: Pre-trained Visual Parameter-Efficient Tuning", "preprint 2023", "2304.13639"),
    SYSTEM(24, "lae", "A Unified Continual Learning Framework with General Parameter-Efficient Tuning", "ICCV 2023", "2303.10070"),
    SYSTEM(25, "samda", "SAMDA: Leveraging SAM on Few-Shot Domain Adaptation for Electronic Microscopy Segmentation", "ISBI 2025",
           "2403.07951"),
    SYSTEM(26, "valley", "Valley: Video Assistant with Large Language model Enhanced abilitY", "preprint 2023", "2306.07207"),
    PARTS(27, "diffusekrona", "DiffuseKronA: A Parameter Efficient Fine-tuning Method for Personalized Diffusion Model", "WACV 2025",
          "2402.17412", "cambium train --kind krona", "docs/adapters.md"),
    SYSTEM(28, "ziya-vl", "Ziya-VL (Ziya-Visual): Bilingual Large Vision-Language Model via Multi-Task Instruction Tuning", "preprint 2023",
           "2310.08166"),
    SYSTEM(29, "bib", "Bidirectional Learning for Offline Model-based Biological Sequence Design", "ICML 2023", "2301.02931"),
    WHOLE(30, "hydra", "Hydra: Multi-head Low-rank Adaptation for Parameter Efficient Fine-tuning", "Neural Networks 2024", "2309.06922",
          "cambium train --kind hydra", "docs/methods/hydra.md"),
    WHOLE(31, "lt-sft", "Composable Sparse Fine-Tuning for Cross-Lingual Transfer", "ACL 2022", "2110.07560",
          "cambium train --kind lt_sft, cambium merge --into adapter", "docs/methods/lt-sft.md"),
    SYSTEM(32, "moduleformer", "ModuleFormer: Modularity Emerges from Mixture-of-Experts", "preprint 2023", "2306.04640"),
    PARTS(33, "s3diff", "Degradation-Guided One-Step Image Super-Resolution with Diffusion Priors", "preprint 2024", "2409.17058",
          "cambium train --kind s3diff", "docs/adapters.md"),
    PARTS(34, "david", "DAViD: Modeling Dynamic Affordance of 3D Objects using Pre-trained Video Diffusion Models", "ICCV 2025",
          "2501.08333", "cambium train --kind lora, cambium generate --adapter A=0.8 --adapter B=0.7", "docs/composition.md"),
    SYSTEM(35, "tleg", "Transformer as Linear Expansion of Learngene", "AAAI 2024", "2312.05614"),
    SYSTEM(36, "emoe", "Emergent Mixture-of-Experts: Can Dense Pre-trained Transformers Benefit from Emergent Modular Structures?",
           "NAACL 2024", "2310.10908"),
    SYSTEM(37, "pangu-agent", "Pangu-Agent: A Fine-Tunable Generalist Agent with Structured Reasoning", "preprint 2023", "2312.14878"),
    SYSTEM(38, "adaptive-mt", "Adaptive Machine Translation with Large Language Models", "EAMT 2023", "2301.13294"),
    SYSTEM(39, "videocrafter2", "VideoCrafter2: Overcoming Data Limitations for High-Quality Video Diffusion Models", "CVPR 2024",
           "2401.09047"),
    SYSTEM(40, "unipt", "UniPT: Universal Parallel Tuning for Transfer Learning with Efficient Parameter and Memory", "CVPR 2024",
           "2308.14316"),
    WHOLE(41, "llm-adapters", "LLM-Adapters: An Adapter Family for Parameter-Efficient Fine-Tuning of Large Language Models", "EMNLP 2023",
          "2304.01933", "cambium train --kind bottleneck, prefix_tuning, lora", "docs/methods/llm-adapters.md"),
    SYSTEM(42, "ksl", "Knowledge Solver: Teaching LLMs to Search for Domain Knowledge from Knowledge Graphs", "preprint 2023",
           "2309.03118"),
    SYSTEM(43, "vocab-expansion-chat", "Vocabulary Expansion of Chat Models with Unlabeled Target Language Data", "preprint 2024",
           "2412.11704"),
    SYSTEM(44, "vl-pet", "VL-PET: Vision-and-Language Parameter-Efficient Tuning via Granularity Control", "ICCV 2023", "2308.09804"),
    PARTS(45, "orthogonal-adaptation", "Orthogonal Adaptation for Modular Customization of Diffusion Models", "CVPR 2024", "2312.02432",
          "cambium train --kind orthogonal_adaptation, cambium merge --into adapter", "docs/adapters.md"),
    WHOLE(46, "lora-lego", "Merging LoRAs like Playing LEGO: Pushing the Modularity of LoRA to Extremes Through Rank-Wise Clustering",
          "ICLR 2025", "2409.16167", "cambium merge --into adapter --method lego", "docs/methods/lora-lego.md"),
    SYSTEM(47, "autoprompt", "Intent-based Prompt Calibration: Enhancing prompt optimization with synthetic boundary cases",
           "preprint 2024", "2402.03099"),
    SYSTEM(48, "iaa-ir", "Scattered or Connected? An Optimized Parameter-efficient Tuning Approach for Information Retrieval", "CIKM 2022",
           "2208.09847"),
    SYSTEM(49, "memspm", "Memory-Assisted Sub-Prototype Mining for Universal Domain Adaptation", "ICLR 2024", "2310.05453"),
    WHOLE(50, "small-models-big-impact",
          "Small Models, Big Impact: Efficient Corpus and Graph-Based Adaptation of Small Multilingual Language Models for Low-Resource "
          "Languages",
          "preprint 2025", "2502.10140",
          "cambium train --mix stack --task NAME, cambium eval --task pseudo-perplexity, cambium data verbalize",
          "docs/methods/small-models-big-impact.md"),
    SYSTEM(51, "writer-adaptation", "Writer adaptation for offline text recognition: An exploration of neural network-based methods",
           "preprint 2023", "2307.15071"),
    SYSTEM(52, "medical-adaptation", "Medical Adaptation of Large Language and Vision-Language Models: Are We Making Progress?",
           "EMNLP 2024", "2411.04118"),
    SYSTEM(53, "barm", "Background Adaptation with Residual Modeling for Exemplar-Free Class-Incremental Semantic Segmentation",
           "ECCV 2024", "2407.09838"),
    WHOLE(54, "lftl", "Learn from the Learnt: Source-Free Active Domain Adaptation via Contrastive Sampling and Visual Persistence",
          "ECCV 2024", "2407.18899", "cambium adapt active", "docs/methods/lftl.md"),
    SYSTEM(55, "mix-cpt", "Mix-CPT: A Domain Adaptation Framework via Decoupling Knowledge Learning and Format Alignment", "ICLR 2025",
           "2407.10804"),
    SYSTEM(56, "mac", "Online Adaptation of Language Models with a Memory of Amortized Contexts", "NeurIPS 2024", "2403.04317"),
    WHOLE(57, "sentinellms", "SentinelLMs: Encrypted Input Adaptation and Fine-tuning of Language Models for Private and Secure Inference",
          "AAAI 2024", "2312.17342", "cambium sentinel convert, cambium sentinel encode", "docs/methods/sentinellms.md"),
    SYSTEM(58, "post", "Prior-guided Source-free Domain Adaptation for Human Pose Estimation", "ICCV 2023", "2308.13954"),
    WHOLE(59, "paretoda", "Pareto Domain Adaptation", "NeurIPS 2021", "2112.04137", "cambium adapt pool --method paretoda",
          "docs/methods/paretoda.md"),
    WHOLE(60, "adami", "Source-Free Domain Adaptation for Image Segmentation", "Medical Image Analysis 2022", "2108.03152",
          "cambium adapt pool --method adami", "docs/methods/adami.md"),
    WHOLE(61, "gdcan", "Generalized Domain Conditioned Adaptation Network", "IEEE TPAMI 2021", "2103.12339",
          "cambium adapt pool --method gdcan, dcan", "docs/methods/gdcan.md"),
    SYSTEM(62, "ear", "Efficient Model Adaptation for Continual Learning at the Edge", "preprint 2023", "2308.02084"),
    WHOLE(63, "transfer-score", "Can We Evaluate Domain Adaptation Models Without Target-Domain Labels?", "ICLR 2024", "2305.18712",
          "cambium eval --unlabelled", "docs/methods/transfer-score.md"),
    SYSTEM(64, "cma", "Contrastive Model Adaptation for Cross-Condition Robustness in Semantic Segmentation", "ICCV 2023", "2303.05194"),
    WHOLE(65, "cotta", "Continual Test-Time Domain Adaptation", "CVPR 2022", "2203.13591", "cambium adapt --method cotta",
          "docs/methods/cotta.md"),
    SYSTEM(66, "slot-tta", "Test-time Adaptation with Slot-Centric Models", "ICML 2023", "2203.11194"),
    SYSTEM(67, "glen-disaster",
           "Unsupervised Domain Adaptation with Global and Local Graph Neural Networks in Limited Labeled Data Scenario: Application to "
           "Disaster Management",
           "IEEE TCSS 2023", "2104.01436"),
    {0}};

const cb_system *cb_systems(void)
{
    return systems;
}

const cb_system *cb_system_find(const char *name)
{
    char *end;
    long number = strtol(name, &end, 10);
    const char *names[sizeof systems / sizeof *systems];
    size_t count = 0;
    for (const cb_system *s = systems; s->name; s++) {
        if (strcmp(s->name, name) == 0 || (*name && !*end && s->number == number))
            return s;
        names[count++] = s->name;
    }
    cb_string close = {0};
    cb_closest_names(name, names, count, 3, &close);
    cb_fail(CB_ERR_ARGUMENT, "there is no system %s%s%s", name, close.length ? "; close: " : "", close.length ? close.data : "");
    cb_string_free(&close);
    return NULL;
}

const char *cb_system_state_name(cb_system_state state)
{
    static const char *const names[] = {[CB_SYSTEM_PLANNED] = "planned", [CB_SYSTEM_PARTS] = "parts", [CB_SYSTEM_WHOLE] = "whole"};
    return names[state];
}
