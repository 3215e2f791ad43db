# Several processes on this machine, where MPI is found. --oversubscribe: there may be fewer cores than processes.
if(NOT DM2_HAS_MPI)
  return()
endif()
add_executable(dm2_processes comm/processes.cpp)
target_link_libraries(dm2_processes PRIVATE dm2::mpi dm2_own)
set(dm2_mpirun ${MPIEXEC_EXECUTABLE} --oversubscribe --allow-run-as-root)
set(dm2_mpi_environment "${dm2_test_environment}" OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_rmaps_base_oversubscribe=1)
foreach(count 1 2 3 4)
  add_test(NAME comm.processes.${count} COMMAND ${dm2_mpirun} -n ${count} $<TARGET_FILE:dm2_processes>)
  set_tests_properties(comm.processes.${count} PROPERTIES TIMEOUT 120 LABELS processes ENVIRONMENT "${dm2_mpi_environment}"
                       PASS_REGULAR_EXPRESSION "${count} processes by MPI: right")
endforeach()
add_test(NAME comm.silent_process COMMAND ${dm2_mpirun} -n 3 $<TARGET_FILE:dm2_processes> silent)
set_tests_properties(comm.silent_process PROPERTIES TIMEOUT 120 LABELS processes ENVIRONMENT "${dm2_mpi_environment}"
                     PASS_REGULAR_EXPRESSION "process 1 of 3 did not answer process [02] within [0-9.]+ s in the exchange 'numbers' of step 5")
add_test(NAME comm.endless_process COMMAND ${dm2_mpirun} -n 3 $<TARGET_FILE:dm2_processes> endless)
set_tests_properties(comm.endless_process PROPERTIES TIMEOUT 120 LABELS processes ENVIRONMENT "${dm2_mpi_environment}"
                     PASS_REGULAR_EXPRESSION "the other processes did not end within [0-9.]+ s of process [02]")
add_test(NAME comm.paused_process COMMAND ${dm2_mpirun} -n 2 $<TARGET_FILE:dm2_processes> paused)
set_tests_properties(comm.paused_process PROPERTIES TIMEOUT 120 LABELS processes ENVIRONMENT "${dm2_mpi_environment}")
if(TARGET evaluate)
  add_test(NAME comm.same_counts COMMAND ${CMAKE_CURRENT_LIST_DIR}/same_counts.sh $<TARGET_FILE:evaluate> $<TARGET_FILE:make_shapes>
                                         ${PROJECT_SOURCE_DIR}/examples/weights/quick.safetensors
                                         ${PROJECT_BINARY_DIR}/same_counts ${MPIEXEC_EXECUTABLE})
  set_tests_properties(comm.same_counts PROPERTIES TIMEOUT 300 LABELS processes ENVIRONMENT "${dm2_mpi_environment}")
endif()
if(TARGET train)
  add_test(NAME comm.process_faults COMMAND ${PROJECT_SOURCE_DIR}/scripts/process_faults 2 $<TARGET_FILE:train> $<TARGET_FILE:make_shapes>)
  add_test(NAME comm.process_faults_at_end COMMAND ${PROJECT_SOURCE_DIR}/scripts/process_faults --end 4 $<TARGET_FILE:train> $<TARGET_FILE:make_shapes>)
  set_tests_properties(comm.process_faults comm.process_faults_at_end PROPERTIES TIMEOUT 900 LABELS processes
                       ENVIRONMENT "${dm2_mpi_environment}")
  add_test(NAME comm.same_bytes COMMAND ${CMAKE_CURRENT_LIST_DIR}/same_bytes.sh $<TARGET_FILE:train> $<TARGET_FILE:make_shapes>
                                        ${PROJECT_BINARY_DIR}/same_bytes ${MPIEXEC_EXECUTABLE})
  set_tests_properties(comm.same_bytes PROPERTIES COST 60 TIMEOUT 900 LABELS processes ENVIRONMENT "${dm2_mpi_environment}")
endif()
