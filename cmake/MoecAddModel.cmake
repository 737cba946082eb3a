# moec_add_model(NAME MODEL [OPTIONS...])
# A library target NAME made of the ONNX file MODEL: compiled when the file or moec
# changes, into NAME.moec in the current build folder. Link with it and include
# "NAME.h". OPTIONS are moec's, such as --cpu=x86-64-v3.
function(moec_add_model name model)
  set(package ${CMAKE_CURRENT_BINARY_DIR}/${name}.moec)
  get_filename_component(model ${model} ABSOLUTE)
  add_custom_command(OUTPUT ${package}/lib${name}.so ${package}/${name}.h
    COMMAND Moec::moec ${model} -o ${package} ${ARGN}
    DEPENDS ${model} Moec::moec VERBATIM
    COMMENT "Compiling ${model} to ${name}.moec")
  add_custom_target(${name}-package DEPENDS ${package}/lib${name}.so ${package}/${name}.h)
  # An imported target's folder must exist when it is included from.
  file(MAKE_DIRECTORY ${package})
  add_library(${name} SHARED IMPORTED)
  set_target_properties(${name} PROPERTIES
    IMPORTED_LOCATION ${package}/lib${name}.so
    INTERFACE_INCLUDE_DIRECTORIES ${package})
  add_dependencies(${name} ${name}-package)
endfunction()
