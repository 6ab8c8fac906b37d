/* What of `sharing` cannot be done in Python, since its own memory is what is moved here.
 *
 * These functions must be called with the interpreter's lock held, and with no other thread that could write to the
 * memory. They use the stack alone.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Of an entry in /proc/PID/pagemap. */
#define PRESENT (1ULL << 63)
#define OF_FILE (1ULL << 61)
/* Entries that are read at a time. */
#define BATCH 512
/* Of the second word of an allocation of glibc's: the first three bits are flags, and one alone is set if the
 * allocation has a mapping of its own. */
#define FLAGS 7UL
#define IS_MAPPED 2UL

/* Finds the first mapping that libc made for a single large allocation: how many bytes it has, and at what offset it
 * begins; 0 if there is none. What looks like one and is none does no harm. */
long afarensis_find_large(const char *start, long length, long *offset)
{
    uintptr_t page = sysconf(_SC_PAGESIZE);
    for (long at = 0; at + 2 * (long)sizeof(size_t) <= length; at += 2 * sizeof(size_t)) {
        /* An aligned allocation lies further in, and says how far. */
        const size_t *header = (const size_t *)(start + at);
        size_t before = header[0], size = before + (header[1] & ~FLAGS);
        if ((header[1] & FLAGS) != IS_MAPPED || before > (size_t)at || ((uintptr_t)header - before) % page != 0)
            continue;
        if (size < page || size % page != 0 || size > (size_t)length - (at - before))
            continue;
        *offset = at - before;
        return size;
    }
    return 0;
}

/* Writes memory to a file, and maps the file in its place, privately. Returns 0 or an error number; after an error the
 * memory is as it was. */
int afarensis_move(char *start, long length, int file, long offset)
{
    long done = 0;
    while (done < length) {
        ssize_t count = pwrite(file, start + done, length - done, offset + done);
        if (count <= 0)
            return count < 0 ? errno : EIO;
        done += count;
    }
    void *mapped = mmap(start, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, file, offset);
    return mapped == MAP_FAILED ? errno : 0;
}

/* Drops this process's own copies of pages that are as the file has them, so that the file's are seen again. Returns
 * how many pages that were, or minus an error number. */
long afarensis_give_back(char *start, long length, const char *original, int pagemap)
{
    uint64_t entries[BATCH];
    long page = sysconf(_SC_PAGESIZE), pages = length / page, given = 0;
    for (long first = 0; first < pages; first += BATCH) {
        long count = pages - first < BATCH ? pages - first : BATCH;
        ssize_t size = count * sizeof *entries;
        if (pread(pagemap, entries, size, ((uintptr_t)start / page + first) * sizeof *entries) != size)
            return -EIO;
        long same_since = -1;
        for (long i = 0; i <= count; i++) {
            long at = (first + i) * page;
            int same = i < count && (entries[i] & PRESENT) && !(entries[i] & OF_FILE)
                && memcmp(start + at, original + at, page) == 0;
            if (same && same_since < 0)
                same_since = i;
            if (!same && same_since >= 0) {
                if (madvise(start + (first + same_since) * page, (i - same_since) * page, MADV_DONTNEED) < 0)
                    return -errno;
                given += i - same_since;
                same_since = -1;
            }
        }
    }
    return given;
}
