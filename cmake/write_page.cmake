# Runs PROGRAM with ARGUMENTS and keeps what it prints in OUTPUT, which is written only when the program succeeded.
execute_process(COMMAND ${PROGRAM} ${ARGUMENTS} OUTPUT_VARIABLE text COMMAND_ERROR_IS_FATAL ANY)
file(WRITE ${OUTPUT} "${text}")
