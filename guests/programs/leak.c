/* Errors that a checker of memory use finds: a lost block, a byte behind one, a decision by what nobody has set. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *lose(void *text)
{
	char *lost = malloc(100);

	strcpy(lost, text);
	return NULL;
}

int main(void)
{
	int *unset = malloc(10 * sizeof(int));
	char *small = malloc(7);
	pthread_t thread;

	pthread_create(&thread, NULL, lose, "nobody frees this");
	pthread_join(thread, NULL);
	puts(unset[3] > 0 || unset[3] < 1 ? "decided" : "cannot be");
	printf("%d\n", small[7] & 0);
	free(unset);
	free(small);
	return 0;
}
