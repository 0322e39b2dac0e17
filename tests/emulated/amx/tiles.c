// A kernel module that allows programs the registers of AMX (XCR0, bits 17 and 18), where Linux does not: it wants the
// feature XFD as well, which Bochs has not. Nobody saves the tiles when programs take turns: one may use them at a time.
#include <linux/module.h>

static int __init tiles_init(void)
{
	u32 low, high;

	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	asm volatile("xsetbv" : : "a"(low | 3u << 17), "d"(high), "c"(0));
	asm volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
	pr_err("tiles: XCR0 is %x\n", low);
	return 0;
}

module_init(tiles_init);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("AMX without XFD");
