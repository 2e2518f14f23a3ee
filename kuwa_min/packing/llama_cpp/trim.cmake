# Leave out what a file has no use for, and compile the rest in less time. The CMakeLists.txt of
# llama-cpp-python includes this, by CMAKE_PROJECT_llama_cpp_INCLUDE.

set(LLAMA_BUILD_COMMON OFF) # what llama.cpp's programs share; the cache entry is forced ON
set(LLAMA_ALL_WARNINGS OFF) # 16 MB of them
set(MTMD_VIDEO OFF) # it would run ffmpeg on what people send

# Variants of the CPU backend that differ from skylakex, cascadelake and cooperlake by VBMI only.
# Nothing in ggml uses it: their machine code differs in one fallback, which no AVX2 machine calls.
set(list "${CMAKE_CURRENT_SOURCE_DIR}/vendor/llama.cpp/ggml/src/CMakeLists.txt")
if(EXISTS "${list}")
  file(READ "${list}" text)
  string(REGEX REPLACE "ggml_add_cpu_backend_variant\\((cannonlake|icelake|zen4) [^)]*\\)" ""
    text "${text}")
  file(WRITE "${list}" "${text}")
endif()

# Called when all targets are known.
function(compile_mtmd_faster)
  if(NOT TARGET mtmd)
    return()
  endif()
  get_target_property(folder mtmd SOURCE_DIR)
  get_target_property(sources mtmd SOURCES)
  list(FILTER sources EXCLUDE REGEX "^models/.*\\.cpp$")
  list(TRANSFORM sources PREPEND "${folder}/")
  # Its models are 45 small files with the same large headers: sixteen at once, as upstream does
  # with those of libllama.
  set_target_properties(mtmd PROPERTIES UNITY_BUILD ON UNITY_BUILD_BATCH_SIZE 16)
  set_source_files_properties(${sources} TARGET_DIRECTORY mtmd
    PROPERTIES SKIP_UNITY_BUILD_INCLUSION ON)
  # They build graphs and decode files: -O3 takes twice the time to compile.
  set_source_files_properties("${folder}/clip.cpp" "${folder}/mtmd-helper.cpp"
    TARGET_DIRECTORY mtmd PROPERTIES COMPILE_OPTIONS -O2)
endfunction()
cmake_language(DEFER CALL compile_mtmd_faster)
