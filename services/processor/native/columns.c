/* Record batches and their JSON into columns, without a Python object per record.
 *
 * Everything here is for what is plain: most events of most streams. What is not is never judged: the caller
 * is told where it stopped, and goes the way that makes objects, whose word on an event is the one that
 * counts. So a rule of JSON that is missing here costs time and nothing else; what must never happen is that
 * something is taken here that msgspec refuses, or taken as another value. tests/unit/test_columns.py holds
 * the two against each other.
 *
 * No function keeps anything, allocates anything, or reads at or beyond the `end` it is given.
 *
 * Record batches: https://kafka.apache.org/documentation/#recordbatch. JSON: RFC 8259.
 */

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "eight characters are looked at together: the first has to be the lowest byte"
#endif

#ifndef SOURCE_HASH
#error "say which source this is: -DSOURCE_HASH=0x..."
#endif

/* How deep a value that nobody asks for may be nested before it is not plain. */
#define MOST_NESTED 32
/* Members of an object whose place is remembered from one event to the next. */
#define MOST_REMEMBERED 64
/* Digits of a number that can't overflow. */
#define MOST_DIGITS 18
/* Up to here doubles hold every whole number. */
#define MOST_EXACT (UINT64_C(1) << 53)
/* Groups are those of one batch: who makes its texts collide slows that one down. */
#define SEED_OF_A_BATCH UINT64_C(0x9E3779B97F4A7C15)
/* Of a number of 64 bits. */
#define MOST_WRITTEN_DIGITS 20

typedef const uint8_t *at;

/* Whether two stretches are the same: they are short, and a call of memcmp takes longer than comparing them. */
static inline int same(at one, at other, int64_t length) {
    uint64_t a, b;
    if (length >= 8) {
        int64_t i = 0;
        do {
            memcpy(&a, one + i, 8);
            memcpy(&b, other + i, 8);
            if (a != b) return 0;
            i += 8;
        } while (i + 8 <= length);
        /* The last eight, some of them once more. */
        memcpy(&a, one + length - 8, 8);
        memcpy(&b, other + length - 8, 8);
        return a == b;
    }
    if (length >= 4) {
        uint32_t c, d, e, f;
        memcpy(&c, one, 4);
        memcpy(&d, other, 4);
        memcpy(&e, one + length - 4, 4);
        memcpy(&f, other + length - 4, 4);
        return c == d && e == f;
    }
    for (int64_t i = 0; i < length; i++)
        if (one[i] != other[i]) return 0;
    return 1;
}

enum kind { WHOLE = 0, NUMBER = 1, CHOICE = 2, TEXT = 3, TOKEN = 4 };

/* One field of an event, and where its values go. Its twin is `Column` in library.py. */
struct column {
    const uint8_t *name;
    int64_t name_length;
    int64_t kind;
    int64_t may_be_missing;
    int64_t least, most; /* of WHOLE; of TEXT in characters */
    double least_number, most_number;
    int64_t choices; /* of CHOICE, at most 255: codes from 0 to 254 */
    const uint8_t *const *choice;
    const int64_t *choice_length;
    int64_t *whole;  /* the values of WHOLE */
    double *number;  /* of NUMBER */
    uint8_t *code;   /* of CHOICE: which one it is */
    int64_t *tally;  /* CHOICE: how many of each, added to */
    int64_t *start;  /* of every kind: where the token begins in the data, quotes and all */
    int32_t *length; /* and how long it is; 0 where the field is missing */
    int64_t missing; /* in how many events it is */
    int64_t is_run;  /* WHOLE: each is one more than the last. TEXT: all are the same. None is missing. */
};

uint64_t tandem_source_hash(void) { return SOURCE_HASH; }

/* ---- record batches ------------------------------------------------------------------------------- */

static at varint(at p, at end, int64_t *found) {
    uint64_t number = 0;
    for (int shift = 0; p < end && shift < 64; shift += 7) {
        uint8_t byte = *p++;
        number |= (uint64_t)(byte & 0x7F) << shift;
        if (byte < 0x80) {
            *found = (int64_t)(number >> 1) ^ -(int64_t)(number & 1);
            return p;
        }
    }
    return NULL;
}

/* Bytes with their length before them; a negative length stands for null. */
static at sized(at p, at end, at *start, int64_t *length) {
    p = varint(p, end, length);
    if (p == NULL || *length > end - p) return NULL;
    *start = p;
    return *length > 0 ? p + *length : p;
}

/* Find the values of `count` records that begin at `start`, the first of which is number `first` of its batch.
 *
 * Returns where the record behind them begins, or -1: they are not what such records are.
 */
int64_t tandem_locate(const uint8_t *data, int64_t start, int64_t end, int64_t first, int64_t count,
                      int64_t *value_start, int32_t *value_length, int64_t *first_timestamp_delta) {
    at p = data + start, all_end = data + end;
    for (int64_t i = 0; i < count; i++) {
        int64_t length, timestamp_delta, offset_delta, headers;
        at value, ignored;
        p = varint(p, all_end, &length);
        if (p == NULL || length < 1 || length > all_end - p) return -1;
        at record_end = p + length;
        if (*p >= 0x80) return -1; /* Its attributes: one byte, which the client reads as a varint. */
        p = varint(p + 1, record_end, &timestamp_delta);
        if (p == NULL) return -1;
        p = varint(p, record_end, &offset_delta);
        if (p == NULL || offset_delta != first + i) return -1;
        p = sized(p, record_end, &ignored, &length);
        if (p == NULL) return -1;
        p = sized(p, record_end, &value, &length);
        if (p == NULL || length > INT32_MAX) return -1;
        value_start[i] = value - data;
        value_length[i] = length < 0 ? -1 : (int32_t)length;
        p = varint(p, record_end, &headers);
        if (p == NULL || headers < 0) return -1;
        while (headers-- > 0) {
            at name;
            p = sized(p, record_end, &name, &length);
            if (p == NULL || length < 0) return -1;
            /* The client wants UTF-8. */
            for (int64_t one = 0; one < length; one++)
                if (name[one] >= 0x80) return -1;
            p = sized(p, record_end, &ignored, &length);
            if (p == NULL) return -1;
        }
        if (p != record_end) return -1;
        if (i == 0) *first_timestamp_delta = timestamp_delta;
    }
    return p - data;
}

/* ---- JSON ----------------------------------------------------------------------------------------- */

#define EACH(byte) (UINT64_C(0x0101010101010101) * (byte))

static inline at past_space(at p, at end) {
    if (p < end && *p > ' ') return p; /* Mostly there is none. */
    while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r')) p++;
    return p;
}

/* The first character from `p` on that is a quote, a backslash, a control character or not ASCII. */
static at past_plain(at p, at end) {
    while (end - p >= 8) {
        uint64_t eight, quote, backslash;
        memcpy(&eight, p, 8);
        quote = eight ^ EACH('"');
        backslash = eight ^ EACH('\\');
        /* A borrow can only reach bytes above one that is found, and the lowest is what counts. */
        uint64_t odd = (((quote - EACH(1)) & ~quote) | ((backslash - EACH(1)) & ~backslash) |
                        ((eight - EACH(0x20)) & ~eight) | eight) & EACH(0x80);
        if (odd) return p + (__builtin_ctzll(odd) >> 3);
        p += 8;
    }
    while (p < end && *p != '"' && *p != '\\' && *p >= 0x20 && *p < 0x80) p++;
    return p;
}

/* Past one character that is not ASCII, or NULL where it is not UTF-8 (RFC 3629). */
static at past_character(at p, at end) {
    uint8_t lead = *p;
    int64_t more = lead >= 0xC2 && lead <= 0xDF ? 1 : lead >= 0xE0 && lead <= 0xEF ? 2
                 : lead >= 0xF0 && lead <= 0xF4 ? 3 : 0;
    if (more == 0 || end - p <= more) return NULL;
    uint8_t least = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    uint8_t most = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (p[1] < least || p[1] > most) return NULL;
    for (int64_t i = 2; i <= more; i++)
        if (p[i] < 0x80 || p[i] > 0xBF) return NULL;
    return p + more + 1;
}

/* Past the closing quote of a text whose opening one was passed, or NULL. No escapes in it. */
static at past_text(at p, at end, int64_t *characters) {
    at begin = p;
    int64_t continued = 0;
    for (;;) {
        p = past_plain(p, end);
        if (p == end) return NULL;
        if (*p == '"') break;
        at next = *p >= 0x80 ? past_character(p, end) : NULL;
        if (next == NULL) return NULL;
        continued += next - p - 1;
        p = next;
    }
    *characters = p - begin - continued;
    return p + 1;
}

/* The four digits of \u, or -1. */
static int64_t four_hexadecimals(at p, at end) {
    int64_t number = 0;
    if (end - p < 4) return -1;
    for (int i = 0; i < 4; i++) {
        uint8_t digit = p[i];
        int64_t value = digit >= '0' && digit <= '9'   ? digit - '0'
                        : digit >= 'a' && digit <= 'f' ? digit - 'a' + 10
                        : digit >= 'A' && digit <= 'F' ? digit - 'A' + 10
                                                       : -1;
        if (value < 0) return -1;
        number = number * 16 + value;
    }
    return number;
}

/* Past an escape, or NULL. Of the surrogates only those that make a character together. */
static at past_escape(at p, at end) {
    if (end - p < 2) return NULL;
    if (p[1] != 'u') return p[1] != 0 && strchr("\"\\/bfnrt", p[1]) != NULL ? p + 2 : NULL;
    int64_t unit = four_hexadecimals(p + 2, end);
    if (unit < 0 || (unit >= 0xDC00 && unit <= 0xDFFF)) return NULL;
    p += 6;
    if (unit < 0xD800 || unit > 0xDBFF) return p;
    if (end - p < 2 || p[0] != '\\' || p[1] != 'u') return NULL;
    unit = four_hexadecimals(p + 2, end);
    return unit >= 0xDC00 && unit <= 0xDFFF ? p + 6 : NULL;
}

/* The same where nobody asks for the text: escapes may be in it. */
static at past_any_text(at p, at end) {
    for (;;) {
        p = past_plain(p, end);
        if (p == end) return NULL;
        if (*p == '"') return p + 1;
        if (*p == '\\') {
            p = past_escape(p, end);
            if (p == NULL) return NULL;
        } else if (*p >= 0x80) {
            p = past_character(p, end);
            if (p == NULL) return NULL;
        } else {
            return NULL;
        }
    }
}

static int is_digit(at p, at end) { return p < end && (uint8_t)(*p - '0') < 10; }

/* Past the digits of a whole number of at most MOST_DIGITS, without a zero before others. */
static at past_digits(at p, at end, int64_t *found) {
    at begin = p;
    int64_t number = 0;
    while (is_digit(p, end) && p - begin < MOST_DIGITS) number = number * 10 + (*p++ - '0');
    if (p == begin || is_digit(p, end) || (*begin == '0' && p - begin > 1)) return NULL;
    *found = number;
    return p;
}

static at past_whole(at p, at end, int64_t *found) {
    int is_negative = p < end && *p == '-';
    p = past_digits(p + is_negative, end, found);
    if (p == NULL || (is_negative && *found == 0)) return NULL;
    if (is_negative) *found = -*found;
    return p;
}

static const uint64_t POWERS_OF_TEN[MOST_DIGITS + 1] = {
    UINT64_C(1),
    UINT64_C(10),
    UINT64_C(100),
    UINT64_C(1000),
    UINT64_C(10000),
    UINT64_C(100000),
    UINT64_C(1000000),
    UINT64_C(10000000),
    UINT64_C(100000000),
    UINT64_C(1000000000),
    UINT64_C(10000000000),
    UINT64_C(100000000000),
    UINT64_C(1000000000000),
    UINT64_C(10000000000000),
    UINT64_C(100000000000000),
    UINT64_C(1000000000000000),
    UINT64_C(10000000000000000),
    UINT64_C(100000000000000000),
    UINT64_C(1000000000000000000)};

static double power_of_two(int exponent) {
    uint64_t bits = (uint64_t)(1023 + exponent) << 52;
    double power;
    memcpy(&power, &bits, 8);
    return power;
}

static int bits_of(uint64_t number) { return 64 - __builtin_clzll(number); }

/* The double that is next to digits / 10^decimals; digits are not 0. */
static double quotient(uint64_t digits, int64_t decimals) {
    uint64_t divisor = POWERS_OF_TEN[decimals];
    /* A double holds every power of ten up to 10^22. Where it holds the digits too there is one rounding, and it
     * is the right one; so it is where there is nothing to be divided. */
    if (digits <= MOST_EXACT || decimals == 0) return (double)digits / (double)divisor;
    /* So far to the left that the quotient has 57 or 58 bits: more than a double has and the one it rounds by.
     * What is left over counts as a bit behind them. */
    int shift = 57 + bits_of(divisor) - bits_of(digits);
    unsigned __int128 dividend = (unsigned __int128)digits << shift;
    uint64_t found = (uint64_t)(dividend / divisor);
    found |= dividend % divisor != 0;
    return (double)found * power_of_two(-shift);
}

/* A number with or without decimals, of at most MOST_DIGITS digits. */
static at past_number(at p, at end, double *found) {
    int64_t digits, decimals = 0;
    int is_negative = p < end && *p == '-';
    at begin = p += is_negative;
    p = past_digits(p, end, &digits);
    if (p == NULL) return NULL;
    if (p < end && *p == '.') {
        at point = p++;
        while (is_digit(p, end)) {
            if (p - begin > MOST_DIGITS) return NULL;
            digits = digits * 10 + (*p++ - '0');
        }
        decimals = p - point - 1;
        if (decimals == 0) return NULL;
    }
    if (is_negative && digits == 0) return NULL;
    double number = digits == 0 ? 0.0 : quotient((uint64_t)digits, decimals);
    *found = is_negative ? -number : number;
    return p;
}

static at past_word(at p, at end, const char *word, int64_t length) {
    return end - p >= length && memcmp(p, word, (size_t)length) == 0 ? p + length : NULL;
}

/* Past a value that nobody asks for, or NULL. */
static at past_value(at p, at end, int nested) {
    double number;
    if (p == end || nested > MOST_NESTED) return NULL;
    switch (*p) {
    case '"':
        return past_any_text(p + 1, end);
    case 't':
        return past_word(p, end, "true", 4);
    case 'f':
        return past_word(p, end, "false", 5);
    case 'n':
        return past_word(p, end, "null", 4);
    case '{':
    case '[': {
        uint8_t close = *p == '{' ? '}' : ']';
        int is_object = *p == '{';
        p = past_space(p + 1, end);
        if (p < end && *p == close) return p + 1;
        for (;;) {
            if (is_object) {
                if (p == end || *p != '"') return NULL;
                p = past_any_text(p + 1, end);
                if (p == NULL) return NULL;
                p = past_space(p, end);
                if (p == end || *p != ':') return NULL;
                p = past_space(p + 1, end);
            }
            p = past_value(p, end, nested + 1);
            if (p == NULL) return NULL;
            p = past_space(p, end);
            if (p == end) return NULL;
            if (*p == close) return p + 1;
            if (*p != ',') return NULL;
            p = past_space(p + 1, end);
        }
    }
    default:
        return past_number(p, end, &number);
    }
}

/* Take the value at `p` into event `i` of a column; return what stands behind it, or NULL. */
static at take(struct column *column, const uint8_t *data, at p, at end, int64_t i) {
    at begin = p;
    int64_t found;
    double number;
    switch (column->kind) {
    case WHOLE:
        p = past_whole(p, end, &found);
        if (p == NULL || found < column->least || found > column->most) return NULL;
        column->whole[i] = found;
        if (i > 0 && found != column->whole[i - 1] + 1) column->is_run = 0;
        break;
    case NUMBER:
        p = past_number(p, end, &number);
        if (p == NULL || number < column->least_number || number > column->most_number) return NULL;
        column->number[i] = number;
        break;
    case CHOICE: {
        if (p == end || *p != '"') return NULL;
        int64_t one = 0, length = 0;
        for (; one < column->choices; one++) {
            length = column->choice_length[one];
            if (end - p > length + 1 && p[length + 1] == '"' && same(p + 1, column->choice[one], length)) break;
        }
        if (one == column->choices) return NULL;
        column->code[i] = (uint8_t)one;
        column->tally[one]++;
        p += length + 2;
        break;
    }
    case TEXT:
        if (p == end || *p != '"') return NULL;
        p = past_text(p + 1, end, &found);
        if (p == NULL || found < column->least || found > column->most) return NULL;
        if (i > 0 && column->is_run &&
            (p - begin != column->length[0] || !same(begin, data + column->start[0], p - begin)))
            column->is_run = 0;
        break;
    case TOKEN:
        p = past_value(p, end, 0);
        if (p == NULL) return NULL;
        break;
    default:
        return NULL;
    }
    column->start[i] = begin - data;
    column->length[i] = (int32_t)(p - begin);
    return p;
}

/* A member's name and whose it is, as they stood at the same place of the event before. */
struct member {
    at name;
    int64_t length;
    int64_t column; /* -1: nobody's */
};

/* Past a member's name, its quotes and the colon, or NULL. */
static at past_name(struct member *member, int is_known, const struct column *columns, int64_t count, at p,
                    at end) {
    if (p == end || *p != '"') return NULL;
    p++;
    if (!(is_known && end - p > member->length && p[member->length] == '"' &&
          same(p, member->name, member->length))) {
        at name_end = past_plain(p, end);
        if (name_end == end || *name_end != '"') return NULL;
        member->name = p;
        member->length = name_end - p;
        member->column = -1;
        for (int64_t one = 0; one < count; one++)
            if (columns[one].name_length == member->length &&
                same(columns[one].name, p, member->length))
                member->column = one;
    }
    p = past_space(p + member->length + 1, end);
    return p < end && *p == ':' ? past_space(p + 1, end) : NULL;
}

/* Read `count` values, each a JSON object, into columns (at most 64).
 *
 * Returns how many are plain, from the first on: `count` where all are. Only then do the columns hold.
 */
int64_t tandem_read(const uint8_t *data, const int64_t *value_start, const int32_t *value_length, int64_t count,
                    struct column *columns, int64_t column_count) {
    struct member members[MOST_REMEMBERED];
    int known = 0;
    uint64_t wanted = 0;
    for (int64_t one = 0; one < column_count; one++) {
        columns[one].missing = 0;
        columns[one].is_run = 1;
        if (!columns[one].may_be_missing) wanted |= UINT64_C(1) << one;
    }
    for (int64_t i = 0; i < count; i++) {
        if (value_length[i] < 0) return i;
        at p = data + value_start[i], end = p + value_length[i];
        uint64_t seen = 0;
        p = past_space(p, end);
        if (p == end || *p != '{') return i;
        p = past_space(p + 1, end);
        for (int number = 0;; number++) {
            struct member spare, *member = number < MOST_REMEMBERED ? &members[number] : &spare;
            if (number == 0 && p < end && *p == '}') break;
            p = past_name(member, number < known, columns, column_count, p, end);
            if (p == NULL) return i;
            if (number >= known && number < MOST_REMEMBERED) known = number + 1;
            if (member->column < 0) {
                p = past_value(p, end, 0);
            } else {
                uint64_t bit = UINT64_C(1) << member->column;
                if (seen & bit) return i; /* The last of them would count. */
                seen |= bit;
                p = take(&columns[member->column], data, p, end, i);
            }
            if (p == NULL) return i;
            p = past_space(p, end);
            if (p == end) return i;
            if (*p == '}') break;
            if (*p != ',') return i;
            p = past_space(p + 1, end);
        }
        if (past_space(p + 1, end) != end || (seen & wanted) != wanted) return i;
        for (int64_t one = 0; one < column_count; one++)
            if (!(seen & UINT64_C(1) << one)) {
                columns[one].missing++;
                columns[one].is_run = 0;
                columns[one].length[i] = 0;
            }
    }
    return count;
}

/* Put the numbers of the events with this code into `events`; return how many there are. */
int64_t tandem_select(const uint8_t *code, int64_t count, uint8_t wanted, int32_t *events) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        events[found] = (int32_t)i; /* Without a branch: nobody can foresee it. */
        found += code[i] == wanted;
    }
    return found;
}

/* Two stretches that come to the same can't be made by who doesn't know the seed, whose bits are random. */
static uint64_t hash_of(at p, int64_t length, uint64_t seed) {
    uint64_t hash = ~seed ^ (uint64_t)length, eight;
    unsigned __int128 product;
    for (;; p += 8, length -= 8) {
        eight = 0;
        memcpy(&eight, p, length < 8 ? (size_t)length : 8);
        product = (unsigned __int128)(hash ^ eight) * (seed | 1);
        hash = (uint64_t)product ^ (uint64_t)(product >> 64);
        if (length <= 8) return hash;
    }
}

/* Put the numbers of the events into `order`, those with the same token next to each other.
 *
 * Groups stand in the order of their first events, and so do the events of each. `ends` says where in `order`
 * each group ends. `table` has `size` entries, a power of two of at least twice `count`, all 0; `group` has
 * room for `count`. Returns how many groups there are.
 */
int64_t tandem_group(const uint8_t *data, const int64_t *start, const int32_t *length, int64_t count,
                     int32_t *table, int64_t size, int32_t *group, int32_t *order, int32_t *ends) {
    int32_t groups = 0;
    for (int32_t i = 0; i < count; i++) {
        at token = data + start[i];
        uint64_t place = hash_of(token, length[i], SEED_OF_A_BATCH) & (uint64_t)(size - 1);
        for (;; place = (place + 1) & (uint64_t)(size - 1)) {
            int32_t first = table[place] - 1; /* The first event that has it. */
            if (first < 0) {
                table[place] = i + 1;
                ends[groups] = 0;
                group[i] = groups++;
                break;
            }
            if (length[first] == length[i] && same(data + start[first], token, length[i])) {
                group[i] = group[first];
                break;
            }
        }
        ends[group[i]]++;
    }
    int32_t begin = 0;
    for (int32_t one = 0; one < groups; one++) {
        int32_t events = ends[one];
        ends[one] = begin;
        begin += events;
    }
    for (int32_t i = 0; i < count; i++) order[ends[group[i]]++] = i;
    return groups;
}

/* Put `from[order[i]]` into `to[i]`. */
void tandem_gather(const double *from, const int32_t *order, int64_t count, double *to) {
    for (int64_t i = 0; i < count; i++) to[i] = from[order[i]];
}

/* ---- state in rows -------------------------------------------------------------------------------- */

/* What `tandem_find` looks texts up in: a hash table whose slots are 0 where they are free.
 *
 * A slot holds 32 bits of the hash, and the row plus one. `size` is a power of two, larger than the number of
 * texts. By row: where the text stands in `text`, and how long it is. Its twin is `Texts` in library.py.
 */
struct texts {
    uint64_t *slot;
    uint64_t size;
    uint64_t seed; /* of the hashes */
    const uint8_t *text;
    const int64_t *start;
    const int32_t *length;
};

#define ROW_OF(slot) ((int32_t)(uint32_t)(slot)-1)

/* Let these rows be found by their texts, which are not found yet. */
void tandem_learn(struct texts *texts, const int32_t *rows, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        int32_t row = rows[i];
        uint64_t hash = hash_of(texts->text + texts->start[row], texts->length[row], texts->seed);
        uint64_t place = hash & (texts->size - 1);
        while (texts->slot[place] != 0) place = (place + 1) & (texts->size - 1);
        texts->slot[place] = (hash & ~UINT64_C(0xFFFFFFFF)) | (uint32_t)(row + 1);
    }
}

/* Put the row of each token into `rows`, -1 where it is not known; return how many are not. */
int64_t tandem_find(const uint8_t *data, const int64_t *start, const int32_t *length, int64_t count,
                    const struct texts *texts, int32_t *rows) {
    int64_t unknown = 0;
    for (int64_t i = 0; i < count; i++) {
        at token = data + start[i];
        uint64_t hash = hash_of(token, length[i], texts->seed), slot;
        rows[i] = -1;
        for (uint64_t place = hash;; place++) {
            place &= texts->size - 1;
            slot = texts->slot[place];
            if (slot == 0) break;
            int32_t row = ROW_OF(slot);
            if ((slot ^ hash) >> 32 == 0 && texts->length[row] == length[i] &&
                same(texts->text + texts->start[row], token, length[i])) {
                rows[i] = row;
                break;
            }
        }
        unknown += rows[i] < 0;
    }
    return unknown;
}

/* Mark rows; put those that were not marked before into `marked`, and return how many they are. */
int64_t tandem_mark(const int32_t *rows, int64_t count, uint8_t *mark, int32_t *marked) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        marked[found] = rows[i];
        found += !mark[rows[i]];
        mark[rows[i]] = 1;
    }
    return found;
}

/* Put the numbers of the events whose row is marked into `events`; return how many there are. */
int64_t tandem_marked(const int32_t *rows, int64_t count, const uint8_t *mark, int32_t *events) {
    int64_t found = 0;
    for (int64_t i = 0; i < count; i++) {
        events[found] = (int32_t)i;
        found += mark[rows[i]] != 0;
    }
    return found;
}

/* The number of an event, `first` for the first of them, becomes that of its row. */
void tandem_number(const int32_t *rows, int64_t count, int64_t first, int64_t *number) {
    for (int64_t i = 0; i < count; i++) number[rows[i]] = first + i;
}

/* Windows by row. Each has a stretch of both columns, at `start`, with `room` for so many readings, of which
 * it holds `held`. The next one goes to `next`, which goes round only where `room` is all that it may hold.
 * Its twin is `Rings` in library.py.
 */
struct rings {
    double *value;
    double *time;
    const int64_t *start;
    const int32_t *room;
    int32_t *held;
    int32_t *next;
    int64_t size; /* how many readings a window may hold */
};

/* Take readings in, in order, from number `first` on.
 *
 * Returns how many were taken, those before `first` too: fewer than `count` where a row has no room for the
 * next one.
 */
int64_t tandem_push(const struct rings *rings, const int32_t *rows, int64_t first, int64_t count,
                    const double *value, const double *time) {
    for (int64_t i = first; i < count; i++) {
        int32_t row = rows[i], next = rings->next[row], room = rings->room[row];
        if (rings->held[row] == room && room < rings->size) return i;
        rings->value[rings->start[row] + next] = value[i];
        rings->time[rings->start[row] + next] = time[i];
        rings->held[row] += rings->held[row] < room;
        rings->next[row] = next + 1 < rings->size ? next + 1 : 0;
    }
    return count;
}

/* ---- texts made of what was read ------------------------------------------------------------------ */

/* Two digits from 0 to `most`, or -1. */
static int64_t two_digits(at p, int64_t most) {
    if ((uint8_t)(p[0] - '0') > 9 || (uint8_t)(p[1] - '0') > 9) return -1;
    int64_t number = (p[0] - '0') * 10 + (p[1] - '0');
    return number <= most ? number : -1;
}

/* Whether this is 2026-11-29T10:52:37, with 3, 6 or no decimals, and Z, an offset such as +01:00, or neither. */
static int is_time(at p, int64_t length) {
    static const int64_t days[13] = {0, 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    at end = p + length;
    if (length < 19 || p[4] != '-' || p[7] != '-' || p[10] != 'T' || p[13] != ':' || p[16] != ':') return 0;
    int64_t century = two_digits(p, 99), year = two_digits(p + 2, 99), month = two_digits(p + 5, 12);
    int64_t day = two_digits(p + 8, 31);
    if (century < 0 || year < 0 || century + year == 0 || month < 1 || day < 1) return 0;
    int is_leap = year % 4 == 0 && (year != 0 || century % 4 == 0);
    if (day > days[month] + (is_leap && month == 2)) return 0;
    if (two_digits(p + 11, 23) < 0 || two_digits(p + 14, 59) < 0 || two_digits(p + 17, 59) < 0) return 0;
    p += 19;
    if (p < end && *p == '.') {
        at begin = ++p;
        while (is_digit(p, end)) p++;
        if (p - begin != 3 && p - begin != 6) return 0;
    }
    if (p == end || (*p == 'Z' && end - p == 1)) return 1;
    return end - p == 6 && (*p == '+' || *p == '-') && p[3] == ':' && two_digits(p + 1, 23) >= 0 &&
           two_digits(p + 4, 59) >= 0;
}

/* What a part asks of a token. */
enum demand { ANYTHING = 0, PLAIN_TEXT = 1, TIME = 2 };

static int meets(int64_t demand, int64_t most_bytes, at token, int64_t length) {
    if (length == 0) return 0;
    if (demand == ANYTHING) return 1;
    if (*token != '"' || length - 2 > most_bytes) return 0;
    if (demand == TIME) return is_time(token + 1, length - 2);
    return memchr(token, '\\', (size_t)length) == NULL;
}

/* One part of a text: a stretch that is always the same, and then something of the event. Its twin is `Part`. */
struct part {
    const uint8_t *text;
    int64_t text_length;
    const struct column *column; /* its token as it stands; NULL: the number of the event, as digits */
    int64_t demand;              /* of the token */
    int64_t most_bytes;          /* between the quotes, unless it may be anything */
};

static int64_t write_digits(uint64_t number, uint8_t *out) {
    uint8_t digits[MOST_WRITTEN_DIGITS];
    int64_t count = 0;
    do {
        digits[count++] = (uint8_t)('0' + number % 10);
        number /= 10;
    } while (number);
    for (int64_t i = 0; i < count; i++) out[i] = digits[count - 1 - i];
    return count;
}

/* Write a text for each of `count` events into `out`, `last` behind its parts, and into `ends` where it ends.
 *
 * They are given by their numbers among the `read` ones that the columns hold.
 *
 * Returns how many were written: fewer than `count` where one has not what a part asks for, or `room` is out.
 */
int64_t tandem_write(const uint8_t *data, int64_t read, const int32_t *events, int64_t count,
                     int64_t first_number, const struct part *parts, int64_t part_count, const uint8_t *last,
                     int64_t last_length, uint8_t *out, int64_t room, int64_t *ends) {
    int64_t written = 0;
    for (int64_t i = 0; i < count; i++) {
        int64_t event = events[i];
        if (event < 0 || event >= read) return i;
        for (int64_t one = 0; one < part_count; one++) {
            const struct part *part = &parts[one];
            int64_t length = part->column != NULL ? part->column->length[event] : MOST_WRITTEN_DIGITS;
            if (room - written < part->text_length + length) return i;
            memcpy(out + written, part->text, (size_t)part->text_length);
            written += part->text_length;
            if (part->column == NULL) {
                written += write_digits((uint64_t)first_number + (uint64_t)event, out + written);
            } else {
                at token = data + part->column->start[event];
                if (!meets(part->demand, part->most_bytes, token, length)) return i;
                memcpy(out + written, token, (size_t)length);
                written += length;
            }
        }
        if (room - written < last_length) return i;
        memcpy(out + written, last, (size_t)last_length);
        written += last_length;
        ends[i] = written;
    }
    return count;
}
