#include "go_asm.h"
#include "textflag.h"

// The free bits of a shape's span moved to where the last bits of the addresses are, and its spans to where the ports are;
// burst_amd64.s has them from here.
DATA ·freeBits+0(SB)/8, $0x8080800780808005
DATA ·freeBits+8(SB)/8, $0x8080808080808080
GLOBL ·freeBits(SB), RODATA|NOPTR, $16
DATA ·spans+0(SB)/8, $0x8080808080808080
DATA ·spans+8(SB)/8, $0x8006800403020100
GLOBL ·spans(SB), RODATA|NOPTR, $16

// func descendVector(a *ahead, trees, slots []slot, lanes int)
//
// The same steps as ahead.descend, which has the comments.
//
// DI a, SI list, R12 at. BX is the place in the list, R8 how much of it is left for the next step, R11 where it ends.
TEXT ·descendVector(SB), NOSPLIT, $0-64
	MOVQ a+0(FP), DI
	MOVQ trees_base+8(FP), R9
	MOVQ trees_len+16(FP), R10
	MOVQ slots_base+32(FP), R15
	LEAQ ahead_list(DI), SI
	LEAQ ahead_at(DI), R12
	MOVQ lanes+56(FP), R11
	XORL R8, R8
	TESTQ R11, R11
	JZ   done

	// The roots.
	XORL CX, CX // the tree's first lane in at
	TESTQ R10, R10
	JZ   done

tree:
	MOVQ (R9), DX
	MOVQ DX, R13
	SHRQ $63, R13
	XORL BX, BX

root:
	LEAL (CX)(BX*1), AX
	INCQ BX
	MOVQ DX, (R12)(AX*8)
	MOVW AX, (SI)(R8*2)
	ADDQ R13, R8
	CMPQ BX, R11
	JCS  root
	ADDQ $8, R9
	ADDL $const_BurstSize, CX
	DECQ R10
	JNZ  tree

	// A step down for all.
level:
	TESTQ R8, R8
	JZ   done
	MOVQ R8, R11
	XORL BX, BX
	XORL R8, R8

step:
	MOVWLZX (SI)(BX*2), AX
	INCQ BX
	MOVQ (R12)(AX*8), DX
	MOVW AX, (SI)(R8*2)
	MOVL AX, CX
	ANDL $(const_BurstSize-1), CX
	LEAQ (DI)(CX*8), CX
	MOVQ DX, R13
	SHRQ $60, R13                     // 8, for the node's flag, and the key
	SHLL $9, R13
	MOVQ (ahead_key-8*8*const_BurstSize)(CX)(R13*1), R14
	MOVQ DX, R13
	SHRQ $32, R13                     // bits and shift
	BEXTRQ R13, R14, R14
	MOVL DX, DX
	ADDQ DX, R14
	MOVQ (R15)(R14*8), DX
	MOVQ DX, (R12)(AX*8)
	SHRQ $63, DX
	ADDQ DX, R8
	CMPQ BX, R11
	JCS  step
	JMP  level

done:
	RET

// What is added to a run for its first entry to be the one behind it, and what of a run says that there are more than the first.
DATA onward<>+0(SB)/8, $-0x3ffffff00000000
GLOBL onward<>(SB), RODATA|NOPTR, $8
DATA beside<>+0(SB)/8, $~0x3ffffff00000000
GLOBL beside<>(SB), RODATA|NOPTR, $8

// An entry and its shape are compared with a lane so, in words of 16 bits:
//
//	lane    addr (4 words)    destination port, source port, protocol, port of the wire
//	        & mask            & all ones: ones from which as many were shifted out as bits are free
//	        - entry.addr      - lowest: of the destination port from the entry, of the others from the shape
//	        nothing is left   is at most the shape's span
//
// AX is the lane's place in at, then its number, DX and CX the run. DI a, R10 entries, R11 shapes, X0 ones, X4 freeBits, X5 spans; R13 to
// R15 and X1 to X3 are used. Leaves ones in CX where the entry's meta is below what has been found, and the run goes on, else zeros.
#define COMPARE \
	SHRQ $(const_entryShift-4), CX; \
	ANDL $(const_entryMask<<4), CX; \
	ANDL $(const_BurstSize-1), AX; \
	MOVQ (narrow_meta-16)(R10)(CX*1), R13; \
	MOVQ R13, R14; \
	SHRQ $(const_shapeShift-4), R14; \
	ANDL $(const_shapeMask<<4), R14; \
	VMOVDQU (R11)(R14*1), X1; \
	VPSHUFB X4, X1, X2; \
	VPSLLVD X2, X0, X2; \
	VMOVQ ahead_key(DI)(AX*8), X3; \
	VMOVHPS (ahead_key+8*const_BurstSize)(DI)(AX*8), X3, X3; \
	VPAND X3, X2, X2; \
	VPSHUFB X5, X1, X3; \
	VPBLENDW $0x1f, -16(R10)(CX*1), X1, X1; \
	VPSUBW X1, X2, X2; \
	VPSUBUSW X3, X2, X2; \
	MOVQ ahead_found(DI)(AX*8), R15; \
	MOVQ R15, CX; \
	CMPQ R13, R15; \
	CMOVQCS R13, CX; \
	VPTEST X2, X2; \
	CMOVQEQ CX, R15; \
	MOVQ R15, ahead_found(DI)(AX*8); \
	CMPQ R13, R15; \
	SBBL CX, CX; \
	ANDQ beside<>(SB), DX; \
	NEGQ DX; \
	SBBL DX, DX; \
	ANDL DX, CX

// func runsVector(a *ahead, trees int, places []slot, entries []narrow, shapes []shape, lanes int)
//
// The same steps as ahead.runs, which has the comments.
//
// DI a, SI list, R12 at. BX is the place in the list, R8 how much of it is left for the next round, 0(SP) where it ends.
TEXT ·runsVector(SB), NOSPLIT, $8-96
	MOVQ a+0(FP), DI
	MOVQ trees+8(FP), R10
	LEAQ ahead_list(DI), SI
	LEAQ ahead_at(DI), R12
	MOVQ lanes+88(FP), R11
	XORL R8, R8
	TESTQ R11, R11
	JZ   done
	TESTQ R10, R10
	JZ   done

	// The runs that are not empty.
	XORL CX, CX

leavesOfTree:
	XORL BX, BX

leaf:
	LEAL (CX)(BX*1), AX
	INCQ BX
	MOVW AX, (SI)(R8*2)
	MOVQ (R12)(AX*8), DX
	NEGQ DX                           // carry: not empty
	ADCQ $0, R8
	CMPQ BX, R11
	JCS  leaf
	ADDL $const_BurstSize, CX
	DECQ R10
	JNZ  leavesOfTree

	TESTQ R8, R8
	JZ   done
	MOVQ places_base+16(FP), R9
	MOVQ entries_base+40(FP), R10
	MOVQ shapes_base+64(FP), R11
	VPCMPEQD X0, X0, X0
	VMOVDQU ·freeBits(SB), X4
	VMOVDQU ·spans(SB), X5
	MOVQ R8, end-8(SP)
	XORL BX, BX
	XORL R8, R8

	// The first entry of all runs.
first:
	MOVWLZX (SI)(BX*2), AX
	INCQ BX
	MOVQ (R12)(AX*8), DX
	MOVW AX, (SI)(R8*2)
	MOVQ DX, CX
	COMPARE
	SUBL CX, R8
	CMPQ BX, end-8(SP)
	JCS  first

	// Another entry of all runs.
round:
	TESTQ R8, R8
	JZ   done
	MOVQ R8, end-8(SP)
	XORL BX, BX
	XORL R8, R8

another:
	MOVWLZX (SI)(BX*2), AX
	INCQ BX
	MOVQ (R12)(AX*8), CX
	MOVW AX, (SI)(R8*2)
	MOVL CX, DX
	MOVQ onward<>(SB), R13
	ADDQ CX, R13
	SHRQ $const_moreShift, CX
	MOVQ (R9)(DX*8), DX
	CMOVQNE R13, DX
	MOVQ DX, (R12)(AX*8)
	MOVQ DX, CX
	COMPARE
	SUBL CX, R8
	CMPQ BX, end-8(SP)
	JCS  another
	JMP  round

done:
	RET

// func restVector(a *ahead, places []slot, entries []narrow, shapes []shape, n int)
//
// The rounds of ahead.runs behind the first, one lane of list after the other, each to the end of its run.
//
// DI a, R9 places, R10 entries, R11 shapes, BX the place in the list.
TEXT ·restVector(SB), NOSPLIT, $0-88
	MOVQ a+0(FP), DI
	MOVQ places_base+8(FP), R9
	MOVQ entries_base+32(FP), R10
	MOVQ shapes_base+56(FP), R11
	MOVQ n+80(FP), R12
	VPCMPEQD X0, X0, X0
	VMOVDQU ·freeBits(SB), X4
	VMOVDQU ·spans(SB), X5
	XORL BX, BX
	JMP  next

lane:
	MOVWLZX ahead_list(DI)(BX*2), AX
	INCQ BX
	MOVQ ahead_at(DI)(AX*8), R8

entry:
	MOVL R8, DX
	MOVQ onward<>(SB), CX
	ADDQ R8, CX
	SHRQ $const_moreShift, R8
	MOVQ (R9)(DX*8), R8
	CMOVQNE CX, R8
	MOVQ R8, DX
	MOVQ R8, CX
	COMPARE
	TESTL CX, CX
	JNZ  entry

next:
	CMPQ BX, R12
	JCS  lane
	RET
