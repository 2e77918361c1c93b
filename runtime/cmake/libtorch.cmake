# find_package(Torch) from LIBTORCH (variable or environment), else from OSUM_PYTHON, else from the first python3 on PATH.
if(NOT LIBTORCH AND DEFINED ENV{LIBTORCH})
  set(LIBTORCH "$ENV{LIBTORCH}")
endif()
if(LIBTORCH)
  set(torch_prefix "${LIBTORCH}")
else()
  if(NOT OSUM_PYTHON)
    set(OSUM_PYTHON python3)
  endif()
  execute_process(
    COMMAND "${OSUM_PYTHON}" -c "import torch; print(torch.utils.cmake_prefix_path)"
    OUTPUT_VARIABLE torch_prefix OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_VARIABLE torch_error RESULT_VARIABLE torch_status)
  if(NOT torch_status EQUAL 0)
    message(FATAL_ERROR
      "no libtorch: ${OSUM_PYTHON} cannot import torch.\n${torch_error}\n"
      "Activate the environment that has it (. tools/activate.sh), name its Python with -DOSUM_PYTHON=/path/to/python, "
      "or give -DLIBTORCH=/path/to/libtorch.")
  endif()
endif()
unset(Torch_DIR CACHE) # what was found for another Python must not stay
find_package(Torch REQUIRED PATHS "${torch_prefix}" NO_DEFAULT_PATH)
