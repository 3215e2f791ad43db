# The failing GPU: the commands with a model on the emulated one, and a sample of what scripts/gpu_faults does with them.
if(NOT Python3_FOUND)
  find_package(Python3 COMPONENTS Interpreter QUIET)
endif()
if(NOT TARGET dm2_write_units OR NOT Python3_FOUND OR NOT CMAKE_SYSTEM_NAME STREQUAL "Linux")
  return()
endif()
set(examples ${PROJECT_SOURCE_DIR}/examples)
set(folder ${PROJECT_BINARY_DIR}/emulated_models)
file(MAKE_DIRECTORY ${folder})
# A small model: a step of micro itself takes the emulation seconds.
set(DM2_EMULATED_MODEL "micro:image=32,depth=2,attn_layers=1" CACHE STRING "The model of the emulated commands")
set(model_units ${folder}/0-forward.cu ${folder}/0-train.cu)
add_custom_command(OUTPUT ${model_units} COMMAND dm2_write_units ${folder} 0 ${DM2_EMULATED_MODEL} cuda-bf16
                   DEPENDS dm2_write_units COMMENT "Writing ${DM2_EMULATED_MODEL} for the emulated GPU" VERBATIM)
add_custom_command(OUTPUT ${folder}/compiled_in.cpp COMMAND dm2_write_units ${folder}/compiled_in.cpp 1
                   DEPENDS dm2_write_units COMMENT "Listing the emulated models" VERBATIM)
set(gpu_units ${model_units} ${examples}/cuda/gpu.cu ${examples}/cuda/processes.cu)
set_source_files_properties(${gpu_units} PROPERTIES LANGUAGE CXX COMPILE_OPTIONS "-xc++")
set(commands ${examples}/support/devices.cpp ${examples}/support/models.cpp)
foreach(name train evaluate classify convert)
  list(APPEND commands ${examples}/commands/${name}.cpp)
endforeach()
dm2_together(command_units emulated_commands 1 ${commands})

add_executable(dm2_emulated_program ${CMAKE_CURRENT_LIST_DIR}/emulated_program.cpp ${command_units} ${folder}/compiled_in.cpp ${gpu_units})
set_target_properties(dm2_emulated_program PROPERTIES OUTPUT_NAME dm2_emulated)
target_link_libraries(dm2_emulated_program PRIVATE dm2::dm2 dm2_built_toolchain CLI11::CLI11 Boost::context ${CMAKE_DL_LIBS})
target_include_directories(dm2_emulated_program BEFORE PRIVATE ${PROJECT_SOURCE_DIR}/tests/emulated/include)
target_compile_definitions(dm2_emulated_program PRIVATE DM2_EXAMPLES_CUDA=1)
target_compile_options(dm2_emulated_program PRIVATE -Wall -Wextra -Wno-unknown-pragmas -Wno-maybe-uninitialized -Wno-uninitialized
                                                    -O0)  # its kernels do nothing
if(DM2_WERROR)
  target_compile_options(dm2_emulated_program PRIVATE -Werror)
endif()
add_test(NAME faults.gpu COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/scripts/gpu_faults --quick --jobs 2
                                 --program $<TARGET_FILE:dm2_emulated_program>)
set_tests_properties(faults.gpu PROPERTIES COST 60 TIMEOUT 900 LABELS emulated)
# A second is not enough for evaluate's 667 faults: it says how many were left.
add_test(NAME faults.gpu_budget COMMAND ${Python3_EXECUTABLE} ${PROJECT_SOURCE_DIR}/scripts/gpu_faults --budget 1 --jobs 2
                                        --program $<TARGET_FILE:dm2_emulated_program> evaluate)
set_tests_properties(faults.gpu_budget PROPERTIES TIMEOUT 300 LABELS emulated
                     PASS_REGULAR_EXPRESSION "[1-9][0-9]* faults .*, no time for [1-9][0-9]*, [0-9]+ s\n0 findings")
