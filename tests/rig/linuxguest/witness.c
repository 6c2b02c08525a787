// SPDX-License-Identifier: Apache-2.0
// What runs in the rig's Linux guest: it writes numbered, checksummed records to a zone of its disk all the time, and says on the
// serial console, every TICK ms, how long it has been up, how many records are safely on the disk and how many writes failed.
//
// Usage: witness DEVICE OFFSET LENGTH TICK_MS CONSOLE DIRTY_MIB
//
// Lines (each one write, so none is torn):
//   witness start UPTIME_MS record N         the highest record found on the disk, 0 for none
//   tick T up MS records N failed F                      records up to N are on the disk (O_DIRECT, O_DSYNC)
//   witness write failed record N errno E
//   witness read wrong record N                          what was read back is not what was written
//
// A record is BLOCK bytes: "record N MS\n", filling that follows from N, and at its end, little-endian, the CRC-32 of all before it. Record N
// lies at OFFSET + (N - 1) % slots * BLOCK. The writer, the ticker and the memory's dirtier are processes of their own: a disk that
// hangs does not stop the ticks.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

enum { BLOCK = 4096, SUM = 4, PAUSE_MS = 10 };

struct shared {
    volatile uint64_t written, failed;
};

static struct shared *shared;
static int console;

static uint64_t uptime_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_BOOTTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void pause_ms(long ms)
{
    struct timespec span = {ms / 1000, ms % 1000 * 1000000};
    while (nanosleep(&span, &span) == -1 && errno == EINTR)
        ;
}

static void say(const char *format, uint64_t a, uint64_t b, uint64_t c, uint64_t d)
{
    char line[160];
    int length = snprintf(line, sizeof line, format, (unsigned long long)a, (unsigned long long)b, (unsigned long long)c,
                          (unsigned long long)d);
    if (write(console, line, length) != length)
        _exit(3);
}

static uint32_t table[256];

static void make_table(void)
{
    for (uint32_t byte = 0; byte < 256; byte++) {
        uint32_t value = byte;
        for (int bit = 0; bit < 8; bit++)
            value = value & 1 ? value >> 1 ^ 0xedb88320U : value >> 1;
        table[byte] = value;
    }
}

// The CRC-32 of zlib and gzip, over all of a block but its own place.
static uint32_t sum_of(const unsigned char *block)
{
    uint32_t sum = 0xffffffffU;
    for (int at = 0; at < BLOCK - SUM; at++)
        sum = sum >> 8 ^ table[(sum ^ block[at]) & 0xff];
    return ~sum;
}

static void fill(unsigned char *block, uint64_t number)
{
    uint64_t state = number * 2654435761ULL + 1;
    for (int at = 0; at < BLOCK - SUM; at++) {
        state = state * 6364136223846793005ULL + 1442695040888963407ULL;
        block[at] = state >> 56;
    }
    memset(block, ' ', 64);
    int length = snprintf((char *)block, 64, "record %llu %llu", (unsigned long long)number, (unsigned long long)uptime_ms());
    block[length] = ' ';
    block[63] = '\n';
    uint32_t sum = sum_of(block);
    memcpy(block + BLOCK - SUM, &sum, SUM);
}

// The number of the record in a block; 0 if it holds none.
static uint64_t number_in(const unsigned char *block)
{
    uint32_t sum;
    unsigned long long number;
    memcpy(&sum, block + BLOCK - SUM, SUM);
    return sum == sum_of(block) && sscanf((const char *)block, "record %llu ", &number) == 1 ? number : 0;
}

static uint64_t highest(int disk, off_t offset, uint64_t slots, unsigned char *block)
{
    uint64_t found = 0;
    for (uint64_t slot = 0; slot < slots; slot++) {
        if (pread(disk, block, BLOCK, offset + slot * BLOCK) != BLOCK || memcmp(block, "record ", 7))
            break; // the zone is written from its start on: what follows was never written
        uint64_t number = number_in(block);
        found = number > found ? number : found;
    }
    return found;
}

static void write_records(const char *device, off_t offset, off_t length)
{
    uint64_t slots = length / BLOCK;
    unsigned char *block = aligned_alloc(BLOCK, BLOCK);
    int disk = open(device, O_RDWR | O_DIRECT | O_DSYNC);
    if (disk < 0 || !block) {
        say("witness cannot open the disk errno %llu\n", errno, 0, 0, 0);
        _exit(2);
    }
    uint64_t number = highest(disk, offset, slots, block);
    shared->written = number;
    say("witness start %llu record %llu\n", uptime_ms(), number, 0, 0);
    for (number++;; number++, pause_ms(PAUSE_MS)) {
        off_t at = offset + (number - 1) % slots * BLOCK;
        fill(block, number);
        while (pwrite(disk, block, BLOCK, at) != BLOCK) {
            shared->failed++;
            say("witness write failed record %llu errno %llu\n", number, errno, 0, 0);
            pause_ms(100);
        }
        shared->written = number;
        if (number % 16 == 0 && pread(disk, block, BLOCK, at) == BLOCK && number_in(block) != number)
            say("witness read wrong record %llu\n", number, 0, 0, 0);
    }
}

// Changes one word in every page, over and over.
static void dirty_memory(size_t mib)
{
    size_t length = mib << 20;
    volatile char *memory = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED)
        _exit(2);
    for (uint64_t round = 1;; round++)
        for (size_t at = 0; at < length; at += 4096)
            *(volatile uint64_t *)(memory + at) = round * 0x9e3779b97f4a7c15ULL + at;
}

int main(int argc, char **argv)
{
    if (argc != 7)
        return 64;
    make_table();
    console = open(argv[5], O_WRONLY | O_NOCTTY);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (console < 0 || shared == MAP_FAILED)
        return 2;
    if (fork() == 0)
        write_records(argv[1], strtoll(argv[2], NULL, 10), strtoll(argv[3], NULL, 10));
    size_t mib = strtoul(argv[6], NULL, 10);
    if (mib && fork() == 0)
        dirty_memory(mib);
    long every = strtol(argv[4], NULL, 10);
    for (uint64_t tick = 1;; tick++, pause_ms(every))
        say("tick %llu up %llu records %llu failed %llu\n", tick, uptime_ms(), shared->written, shared->failed);
}
