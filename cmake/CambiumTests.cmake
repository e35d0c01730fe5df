# The tests: every tests/unit/test_*.c is a program; the other files there are shared by them.  tests/cli/run.sh drives the
# program, tests/faults/NAME.sh kills it or breaks what it stands on, tests/examples/NAME.sh runs an example.  A test gets two
# threads and, from ctest, two cores.
pkg_check_modules(CMOCKA REQUIRED IMPORTED_TARGET cmocka)

set(reference ${CMAKE_CURRENT_SOURCE_DIR}/tests/reference)
set(suppressions ${CMAKE_CURRENT_SOURCE_DIR}/cmake/suppressions)
set(test_environment
  OMP_NUM_THREADS=2
  GOMP_SPINCOUNT=1000
  OPENBLAS_NUM_THREADS=1
  ASAN_OPTIONS=allocator_may_return_null=1
  UBSAN_OPTIONS=print_stacktrace=1
  LSAN_OPTIONS=suppressions=${suppressions}/leak.txt:print_suppressions=0
  TSAN_OPTIONS=ignore_noninstrumented_modules=1:allocator_may_return_null=1)

# libomp finds this by itself only where it is linked directly
file(GLOB archer /usr/lib/llvm-*/lib/libarcher.so)
if(CAMBIUM_SANITIZE MATCHES thread AND archer)
  list(GET archer -1 archer)
  list(APPEND test_environment OMP_TOOL_LIBRARIES=${archer})
endif()

function(register_test name)
  add_test(NAME ${name} COMMAND ${ARGN})
  set_tests_properties(${name} PROPERTIES ENVIRONMENT "${test_environment}" TIMEOUT 900 PROCESSORS 2)
endfunction()

file(GLOB test_sources CONFIGURE_DEPENDS tests/unit/test_*.c)
file(GLOB support_sources CONFIGURE_DEPENDS tests/unit/*.c)
list(FILTER support_sources EXCLUDE REGEX "/test_[^/]*\\.c$")
set(test_libraries cambium_flags cambium_static ${CAMBIUM_LIBRARIES} PkgConfig::CMOCKA)
if(support_sources)
  add_library(test_support STATIC ${support_sources})
  target_link_libraries(test_support PRIVATE cambium_flags PkgConfig::CMOCKA)
  target_compile_definitions(test_support PRIVATE CB_TEST_DATA="${reference}")
  list(PREPEND test_libraries test_support)
endif()
foreach(source ${test_sources})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_compile_definitions(${name} PRIVATE CB_TEST_DATA="${reference}" CB_SOURCE_DIR="${CMAKE_CURRENT_SOURCE_DIR}")
  target_link_libraries(${name} PRIVATE ${test_libraries})
  register_test(${name} ${name})
endforeach()

# programs that scripts under tests/ call
file(GLOB tool_sources CONFIGURE_DEPENDS tests/tools/*.c)
foreach(source ${tool_sources})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  target_link_libraries(${name} PRIVATE cambium_flags cambium_static ${CAMBIUM_LIBRARIES})
endforeach()

include(cmake/CambiumFuzz.cmake)

set(scratch ${CMAKE_BINARY_DIR}/tests/scratch)
file(MAKE_DIRECTORY ${scratch})
if(TARGET cambium AND EXISTS ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/run.sh)
  register_test(cli sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/run.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  set(page sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/page.sh $<TARGET_FILE:cambium> ${CMAKE_CURRENT_SOURCE_DIR} ${scratch})
  register_test(cli_formats_page ${page} docs/formats.md sprig-q8.gguf sprig-again/config.json adapter.gguf
    adapter-mlx/adapters.safetensors sprig-merged.gguf)
  register_test(cli_lora_page ${page} docs/lora.md out/merged/model.safetensors out/loftq/adapter_model.safetensors
    out/merged-saved/model.safetensors out/dora-further/adapter_model.safetensors)
  register_test(cli_composition_page ${page} docs/composition.md out/bible/adapter_model.safetensors out/merged/model.safetensors
                out/fused/mixer.safetensors out/gated/gate.safetensors out/stacked/default/adapter_model.safetensors)
  register_test(cli_images sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/images.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  register_test(cli_adapt sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/adapt.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  register_test(cli_adapt_streams bash ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/adapt_streams.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  register_test(cli_adapt_page ${page} docs/adapt.md said.jsonl drifted.jsonl.state gates.jsonl piped.jsonl watched.jsonl
    out/adapted/model.safetensors)
  register_test(cli_active sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/active.sh $<TARGET_FILE:cambium> ${CMAKE_CURRENT_SOURCE_DIR} ${scratch})
  register_test(cli_active_page ${page} docs/active.md out/marks/round-1/model.safetensors out/marks/round-2.html out/tools/round-1/labels.json)
  register_test(cli_adami_page ${page} docs/methods/adami.md out/adami/model.safetensors out/adapter/labels.json)
  register_test(cli_cotta_page ${page} docs/methods/cotta.md said.jsonl plain.jsonl.state)
  register_test(cli_dense sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/dense.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  register_test(cli_dense_page ${page} docs/dense.md out/unet/preprocessor_config.json out/adapter/labels.json out/merged/model.safetensors
    out/maps/05.png out/depths/05.png out/facing/labels.json out/salient/preprocessor_config.json)
  register_test(cli_forecasting_page ${page} docs/forecasting.md out/speeds/preprocessor_config.json out/adapter/preprocessor_config.json
    out/merged/preprocessor_config.json out/linear/model.safetensors)
  register_test(cli_forecasting sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/forecasting.sh $<TARGET_FILE:cambium> ${CMAKE_CURRENT_SOURCE_DIR} ${scratch})
  register_test(cli_adcsd_page ${page} docs/methods/adcsd.md out/corrected/adcsd.safetensors)
  register_test(cli_diffusion sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/diffusion.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  register_test(cli_diffusion_page ${page} docs/diffusion.md out/noise/scheduler/scheduler_config.json out/noise-adapter/adapter_model.safetensors
    out/noise-merged/scheduler/scheduler_config.json out/made/00007.png out/made-of-classes/images/00000.png)
  register_test(cli_recognition sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/recognition.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  register_test(cli_recognition_page ${page} docs/recognition.md out/reader/vocab.json out/read.jsonl out/adapter/adapter_model.safetensors
    out/merged/vocab.json)
  register_test(cli_seq2seq sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/seq2seq.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  register_test(cli_seq2seq_page ${page} docs/seq2seq.md out/answers/adapter_model.safetensors out/said.jsonl)
  register_test(cli_tasks sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/tasks.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  register_test(cli_labels sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/labels.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  register_test(cli_tasks_page ${page} docs/tasks.md out/reviews/labels.json out/said.jsonl out/names/adapter_model.safetensors
    out/stars/adapter_model.safetensors out/whole/model.safetensors)
  register_test(cli_domains_page ${page} docs/domains.md out/both/model.safetensors out/alone/model.safetensors out/adapter/labels.json
    out/tools/adapter_model.safetensors)
  register_test(cli_pareto_page ${page} docs/methods/paretoda.md out/pareto/model.safetensors out/fixed/model.safetensors out/mgda/model.safetensors)
  register_test(cli_gdcan_page ${page} docs/methods/gdcan.md out/gdcan/adapter_model.safetensors out/dcan/labels.json)
  register_test(cli_transfer_score_page ${page} docs/methods/transfer-score.md out/dan/model.safetensors)
  register_test(cli_retrieval sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/retrieval.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  register_test(cli_retrieval_page ${page} docs/retrieval.md out/finds/modules.json corpus.npy out/whole/model.safetensors out/ranks/labels.json out/ranks.run
    out/alike/adapter_model.safetensors)
  register_test(cli_recursive_page ${page} docs/methods/relaxed-recursive.md out/uptrained/relaxation/adapter_model.safetensors
    out/full/model.safetensors)
  register_test(cli_dylora_page ${page} docs/methods/dylora.md out/dylora-rank-2/model.safetensors)
  register_test(cli_llm_adapters_page ${page} docs/methods/llm-adapters.md out/prefix/adapter_model.safetensors)
  register_test(cli_lora_lego_page ${page} docs/methods/lora-lego.md out/pruned/adapter_model.safetensors)
  register_test(cli_small_models_page ${page} docs/methods/small-models-big-impact.md out/topics/blend.json out/words/train.txt)
  register_test(cli_sentinel_page ${page} docs/methods/sentinellms.md out/tuned/model.safetensors)
  register_test(cli_pego_page ${page} docs/methods/pego.md out/merged/model.safetensors)
  register_test(cli_hydra_page ${page} docs/methods/hydra.md out/merged/model.safetensors)
  register_test(cli_lt_sft_page ${page} docs/methods/lt-sft.md out/swahili-tagger/model.safetensors)
  register_test(cli_merging_page ${page} docs/merging.md out/both/adapter_model.safetensors out/ties-adapter/adapter_config.json
    out/dare-adapter/adapter_model.safetensors out/lego-adapter/adapter_model.safetensors out/slerp/model.safetensors
    out/ties-lora/adapter_model.safetensors)
  register_test(stories260k sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/stories260k.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  set_tests_properties(stories260k PROPERTIES SKIP_RETURN_CODE 77)
endif()
# Whole processes, killed and started again: the sanitizers have nothing to add to these, and they would take minutes.
if(TARGET cambium AND TARGET test_faults AND NOT CAMBIUM_SANITIZE)
  foreach(name kill_resume kill_output disk_full changed_files determinism adapt_week)
    register_test(${name} bash ${CMAKE_CURRENT_SOURCE_DIR}/tests/faults/${name}.sh $<TARGET_FILE:cambium> $<TARGET_FILE:test_faults> ${scratch})
  endforeach()
endif()
if(TARGET cambium AND NOT CAMBIUM_SANITIZE)
  register_test(cli_dry_run sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/dry_run.sh $<TARGET_FILE:cambium> ${reference}
    ${CMAKE_CURRENT_SOURCE_DIR}/models/sprig-5m ${CMAKE_CURRENT_SOURCE_DIR}/examples/data/king-james-held-out.txt ${scratch})
  register_test(repro_quick sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/cli/repro.sh $<TARGET_FILE:cambium> ${scratch})
  register_test(parallel sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/parallel/run.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  if(TARGET test_faults)
    register_test(parallel_faults sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/parallel/faults.sh $<TARGET_FILE:cambium> $<TARGET_FILE:test_faults>
      ${reference} ${scratch})
    set_tests_properties(parallel_faults PROPERTIES SKIP_RETURN_CODE 77)
  endif()
  register_test(parallel_labels sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/parallel/labels.sh $<TARGET_FILE:cambium> ${reference} ${scratch})
  foreach(name namespaces shared_pages)
    register_test(parallel_${name} sh ${CMAKE_CURRENT_SOURCE_DIR}/tests/parallel/${name}.sh $<TARGET_FILE:cambium>
      ${CMAKE_CURRENT_SOURCE_DIR}/models/sprig-5m ${CMAKE_CURRENT_SOURCE_DIR}/models/sprig-5m
      ${CMAKE_CURRENT_SOURCE_DIR}/examples/data/king-james-held-out.txt ${scratch})
  endforeach()
  set_tests_properties(parallel parallel_labels parallel_namespaces parallel_shared_pages PROPERTIES SKIP_RETURN_CODE 77)
endif()
if(CAMBIUM_EXTRAS)
  file(GLOB example_scripts CONFIGURE_DEPENDS tests/examples/*.sh)
  foreach(script ${example_scripts})
    get_filename_component(name ${script} NAME_WE)
    register_test(example_${name} sh ${script} $<TARGET_FILE:examples_${name}> ${reference} ${scratch})
  endforeach()
endif()
