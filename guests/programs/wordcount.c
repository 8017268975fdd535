/* Counts words with threads, a hash table, sorting, a child process and stdio: what a C program does all day. */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define BUCKETS 1024
#define THREADS 4

struct word {
	struct word *next;
	unsigned count;
	char text[];
};

static struct word *buckets[BUCKETS];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static __thread unsigned mine;
static unsigned total;

static void add(const char *text)
{
	unsigned h = 5381;
	struct word *w;

	for (const char *p = text; *p; p++)
		h = h * 33 + (unsigned char)*p;
	pthread_mutex_lock(&lock);
	for (w = buckets[h % BUCKETS]; w && strcmp(w->text, text); w = w->next)
		;
	if (!w) {
		w = malloc(sizeof(*w) + strlen(text) + 1);
		w->count = 0;
		strcpy(w->text, text);
		w->next = buckets[h % BUCKETS];
		buckets[h % BUCKETS] = w;
	}
	w->count++;
	pthread_mutex_unlock(&lock);
	mine++;
}

static void *count(void *part)
{
	char *save, *p = part;

	for (p = strtok_r(p, " \n", &save); p; p = strtok_r(NULL, " \n", &save))
		add(p);
	pthread_mutex_lock(&lock);
	total += mine;
	pthread_mutex_unlock(&lock);
	return NULL;
}

static int by_count(const void *a, const void *b)
{
	const struct word *x = *(struct word *const *)a, *y = *(struct word *const *)b;

	if (x->count != y->count)
		return x->count < y->count ? 1 : -1;
	return strcmp(x->text, y->text);
}

int main(int argc, char **argv)
{
	FILE *f = fopen(argc > 1 ? argv[1] : "", "r");
	pthread_t threads[THREADS];
	struct word **all;
	struct stat st;
	size_t n = 0, size, start = 0;
	char *text;
	int status;

	if (!f || fstat(fileno(f), &st)) {
		printf("cannot open: %s\n", strerror(errno));
		return 4;
	}
	size = st.st_size;
	text = malloc(size + 1);
	if (fread(text, 1, size, f) != size)
		return 5;
	text[size] = 0;
	fclose(f);
	for (int i = 0; i < THREADS; i++) {
		size_t end = size * (i + 1) / THREADS;

		while (end < size && text[end] != '\n')
			end++;
		text[end] = 0;
		pthread_create(&threads[i], NULL, count, text + start);
		start = end < size ? end + 1 : size;
	}
	for (int i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
	all = calloc(total, sizeof(*all));
	for (int i = 0; i < BUCKETS; i++)
		for (struct word *w = buckets[i]; w; w = w->next)
			all[n++] = w;
	qsort(all, n, sizeof(*all), by_count);
	printf("%u words, %zu different\n", total, n);
	for (size_t i = 0; i < n && i < 20; i++)
		printf("%6u %s\n", all[i]->count, all[i]->text);
	fflush(stdout);
	if (fork() == 0) {
		f = fopen("counts", "w");
		for (size_t i = 0; i < n; i++)
			fprintf(f, "%u %s\n", all[i]->count, all[i]->text);
		fclose(f);
		_exit(7);
	}
	wait(&status);
	printf("child %d\n", WEXITSTATUS(status));
	f = popen("wc -l < counts", "r");
	if (!f || !fgets(text, 100, f))
		return 6;
	printf("popen %s", text);
	return pclose(f);
}
