/* The smallest ordinary program: the start_hello_* rows, and what fork_exec_wait executes (then with an
 * argument, so that it prints nothing). */
#include <stdio.h>

int main(int argc, char **argv)
{
	(void)argv;
	if (argc == 1)
		puts("hello");
	return 0;
}
