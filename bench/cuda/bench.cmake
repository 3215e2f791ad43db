# Programs of their own: times come from the device's clock. dm2_cuda_bench is all of them.
add_custom_target(dm2_cuda_bench)
foreach(name model cliff operations training stem_train)
  add_executable(dm2_cuda_${name}_bench cuda/${name}_bench.cu)
  target_link_libraries(dm2_cuda_${name}_bench PRIVATE dm2_cuda_own)
  target_include_directories(dm2_cuda_${name}_bench PRIVATE ${CMAKE_CURRENT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/tests)
  add_dependencies(dm2_cuda_bench dm2_cuda_${name}_bench)
endforeach()
