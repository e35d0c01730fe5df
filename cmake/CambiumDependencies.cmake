# The libraries Cambium stands on, gathered in CAMBIUM_LIBRARIES.  The build includes this file, and so does the installed
# package when a program links the static library.
find_package(PkgConfig REQUIRED)
find_package(Threads REQUIRED)
find_package(OpenMP REQUIRED COMPONENTS C)
pkg_check_modules(CAMBIUM_MODULES REQUIRED IMPORTED_TARGET jansson libpcre2-8 libutf8proc libpng libjpeg libtiff-4>=4.5
  libarchive yaml-0.1 libsodium)

# oneDNN has no pkg-config file and its CMake package comes and goes with the distribution
if(NOT TARGET Cambium::dnnl)
  find_path(DNNL_INCLUDE_DIR dnnl.h REQUIRED)
  find_library(DNNL_LIBRARY dnnl REQUIRED)
  add_library(Cambium::dnnl UNKNOWN IMPORTED)
  set_target_properties(Cambium::dnnl PROPERTIES IMPORTED_LOCATION "${DNNL_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${DNNL_INCLUDE_DIR}")
endif()

# LAPACKE is a library of its own on some systems and part of OpenBLAS on others
if(NOT TARGET Cambium::lapacke)
  find_library(LAPACKE_LIBRARY NAMES lapacke openblas REQUIRED)
  find_library(BLAS_LIBRARY NAMES openblas blas REQUIRED)
  find_library(LAPACK_LIBRARY NAMES lapack openblas REQUIRED)
  find_path(LAPACKE_INCLUDE_DIR lapacke.h PATH_SUFFIXES lapacke openblas REQUIRED)
  add_library(Cambium::lapacke UNKNOWN IMPORTED)
  set_target_properties(Cambium::lapacke PROPERTIES IMPORTED_LOCATION "${LAPACKE_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${LAPACKE_INCLUDE_DIR}" INTERFACE_LINK_LIBRARIES "${LAPACK_LIBRARY};${BLAS_LIBRARY}")
endif()

# Open MPI, for training in several processes
if(NOT "${CAMBIUM_MPI}" STREQUAL "OFF")
  if("${CAMBIUM_MPI}" STREQUAL "ON")
    set(required REQUIRED)
  endif()
  pkg_check_modules(CAMBIUM_OPENMPI ${required} ompi-c)
endif()

set(CAMBIUM_LIBRARIES Cambium::dnnl Cambium::lapacke PkgConfig::CAMBIUM_MODULES OpenMP::OpenMP_C Threads::Threads m)
if(CAMBIUM_OPENMPI_FOUND)
  list(APPEND CAMBIUM_LIBRARIES ${CAMBIUM_OPENMPI_LINK_LIBRARIES})
endif()
