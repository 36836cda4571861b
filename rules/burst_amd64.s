#include "go_asm.h"
#include "textflag.h"

// The steps of ahead.go for eight lanes at a time, in vectors of 64 bytes. The functions there have the comments.
//
// Where each lane loads from another place, the eight addresses are taken out of their vector, and eight instructions load from them:
// on Zen 5 that takes 5.5 cycles where VPGATHERQQ takes 10.5, and on no processor it waits for microcode that mends Gather Data Sampling.

// GATHER loads eight words from base + disp + Z10*scale into Z11. It changes X12 to X14, R9, R10, R12 and R13.
#define GATHER(disp, base, scale) \
	VMOVQ         X10, R9; \
	VPEXTRQ       $1, X10, R10; \
	VEXTRACTI64X2 $1, Y10, X12; \
	VEXTRACTI64X2 $2, Z10, X13; \
	VEXTRACTI64X2 $3, Z10, X14; \
	VMOVQ         disp(base)(R9*scale), X11; \
	VMOVHPS       disp(base)(R10*scale), X11, X11; \
	VMOVQ         X12, R12; \
	VPEXTRQ       $1, X12, R13; \
	VMOVQ         X13, R9; \
	VPEXTRQ       $1, X13, R10; \
	VMOVQ         disp(base)(R12*scale), X12; \
	VMOVHPS       disp(base)(R13*scale), X12, X12; \
	VMOVQ         X14, R12; \
	VPEXTRQ       $1, X14, R13; \
	VMOVQ         disp(base)(R9*scale), X13; \
	VMOVHPS       disp(base)(R10*scale), X13, X13; \
	VMOVQ         disp(base)(R12*scale), X14; \
	VMOVHPS       disp(base)(R13*scale), X14, X14; \
	VINSERTI64X2  $1, X12, Y11, Y11; \
	VINSERTI64X2  $1, X14, Y13, Y13; \
	VINSERTI64X4  $1, Y13, Z11, Z11

// CONST has all words of a vector be value.
#define CONST(value, vector) \
	MOVQ         $(value), AX; \
	VPBROADCASTQ AX, vector

// Of two packets, from Hint on: their keyAddrs, their Hints. In words of 32 bits; 16 is the second packet's first.
DATA head<>+0(SB)/4, $const_headDst
DATA head<>+4(SB)/4, $const_headSrc
DATA head<>+8(SB)/4, $(const_headDst+16)
DATA head<>+12(SB)/4, $(const_headSrc+16)
DATA head<>+16(SB)/4, $0
DATA head<>+20(SB)/4, $1
DATA head<>+24(SB)/4, $16
DATA head<>+28(SB)/4, $17
DATA head<>+32(SB)/8, $0
DATA head<>+40(SB)/8, $0
DATA head<>+48(SB)/8, $0
DATA head<>+56(SB)/8, $0
GLOBL head<>(SB), RODATA|NOPTR, $64

// Of two packets' last 64 bytes: their keyRest, L4 with End, and Flags with Family. In bytes; 64 is the second packet's first.
DATA tail<>+0(SB)/1, $const_tailDstPort
DATA tail<>+1(SB)/1, $(const_tailDstPort+1)
DATA tail<>+2(SB)/1, $const_tailSrcPort
DATA tail<>+3(SB)/1, $(const_tailSrcPort+1)
DATA tail<>+4(SB)/1, $const_tailProto
DATA tail<>+5(SB)/1, $0
DATA tail<>+6(SB)/1, $const_tailIn
DATA tail<>+7(SB)/1, $0
DATA tail<>+8(SB)/1, $(const_tailDstPort+64)
DATA tail<>+9(SB)/1, $(const_tailDstPort+65)
DATA tail<>+10(SB)/1, $(const_tailSrcPort+64)
DATA tail<>+11(SB)/1, $(const_tailSrcPort+65)
DATA tail<>+12(SB)/1, $(const_tailProto+64)
DATA tail<>+13(SB)/1, $0
DATA tail<>+14(SB)/1, $(const_tailIn+64)
DATA tail<>+15(SB)/1, $0
DATA tail<>+16(SB)/1, $const_tailL4
DATA tail<>+17(SB)/1, $(const_tailL4+1)
DATA tail<>+18(SB)/1, $(const_tailL4+2)
DATA tail<>+19(SB)/1, $(const_tailL4+3)
DATA tail<>+20(SB)/1, $const_tailEnd
DATA tail<>+21(SB)/1, $(const_tailEnd+1)
DATA tail<>+22(SB)/1, $(const_tailEnd+2)
DATA tail<>+23(SB)/1, $(const_tailEnd+3)
DATA tail<>+24(SB)/1, $(const_tailL4+64)
DATA tail<>+25(SB)/1, $(const_tailL4+65)
DATA tail<>+26(SB)/1, $(const_tailL4+66)
DATA tail<>+27(SB)/1, $(const_tailL4+67)
DATA tail<>+28(SB)/1, $(const_tailEnd+64)
DATA tail<>+29(SB)/1, $(const_tailEnd+65)
DATA tail<>+30(SB)/1, $(const_tailEnd+66)
DATA tail<>+31(SB)/1, $(const_tailEnd+67)
DATA tail<>+32(SB)/1, $const_tailFlags
DATA tail<>+33(SB)/1, $(const_tailFlags+1)
DATA tail<>+34(SB)/1, $const_tailFamily
DATA tail<>+35(SB)/1, $0
DATA tail<>+36(SB)/4, $0
DATA tail<>+40(SB)/1, $(const_tailFlags+64)
DATA tail<>+41(SB)/1, $(const_tailFlags+65)
DATA tail<>+42(SB)/1, $(const_tailFamily+64)
DATA tail<>+43(SB)/1, $0
DATA tail<>+44(SB)/4, $0
DATA tail<>+48(SB)/8, $0
DATA tail<>+56(SB)/8, $0
GLOBL tail<>(SB), RODATA|NOPTR, $64

// Which bytes of these are there; the others are zero.
#define tailBytes 0x0707ffff5f5f

// Two vectors of four packets' words become one of eight: the first two of each half, the second two; and two of two packets
// one of four with their first and second words, and their third.
DATA firsts<>+0(SB)/8, $0
DATA firsts<>+8(SB)/8, $1
DATA firsts<>+16(SB)/8, $4
DATA firsts<>+24(SB)/8, $5
DATA firsts<>+32(SB)/8, $8
DATA firsts<>+40(SB)/8, $9
DATA firsts<>+48(SB)/8, $12
DATA firsts<>+56(SB)/8, $13
GLOBL firsts<>(SB), RODATA|NOPTR, $64
DATA seconds<>+0(SB)/8, $2
DATA seconds<>+8(SB)/8, $3
DATA seconds<>+16(SB)/8, $6
DATA seconds<>+24(SB)/8, $7
DATA seconds<>+32(SB)/8, $10
DATA seconds<>+40(SB)/8, $11
DATA seconds<>+48(SB)/8, $14
DATA seconds<>+56(SB)/8, $15
GLOBL seconds<>(SB), RODATA|NOPTR, $64
DATA pairs<>+0(SB)/8, $0
DATA pairs<>+8(SB)/8, $1
DATA pairs<>+16(SB)/8, $8
DATA pairs<>+24(SB)/8, $9
DATA pairs<>+32(SB)/8, $2
DATA pairs<>+40(SB)/8, $3
DATA pairs<>+48(SB)/8, $10
DATA pairs<>+56(SB)/8, $11
GLOBL pairs<>(SB), RODATA|NOPTR, $64
DATA thirds<>+0(SB)/8, $4
DATA thirds<>+8(SB)/8, $5
DATA thirds<>+16(SB)/8, $12
DATA thirds<>+24(SB)/8, $13
DATA thirds<>+32(SB)/8, $0
DATA thirds<>+40(SB)/8, $0
DATA thirds<>+48(SB)/8, $0
DATA thirds<>+56(SB)/8, $0
GLOBL thirds<>(SB), RODATA|NOPTR, $64

// The numbers of the lanes.
DATA lanes<>+0(SB)/8, $0x0706050403020100
DATA lanes<>+8(SB)/8, $0x0f0e0d0c0b0a0908
DATA lanes<>+16(SB)/8, $0x1716151413121110
DATA lanes<>+24(SB)/8, $0x1f1e1d1c1b1a1918
DATA lanes<>+32(SB)/8, $0x2726252423222120
DATA lanes<>+40(SB)/8, $0x2f2e2d2c2b2a2928
DATA lanes<>+48(SB)/8, $0x3736353433323130
DATA lanes<>+56(SB)/8, $0x3f3e3d3c3b3a3938
GLOBL lanes<>(SB), RODATA|NOPTR, $64

// func fillBurst(a *ahead, pkts []packet.Packet) int
//
// DI a, SI packets. R8 is the first packet of eight, R11 where the last eight begin, R9 how many lanes are full, R10 has a bit for
// each packet that has one. Packets that have been looked at already, where their number is no multiple of eight, are passed over.
TEXT ·fillBurst(SB), NOSPLIT, $0-40
	MOVQ a+0(FP), DI
	MOVQ pkts_base+8(FP), SI
	MOVQ pkts_len+16(FP), R11
	SUBQ $const_group, R11
	XORL R8, R8
	XORL R9, R9
	XORL R10, R10
	VMOVDQU64 head<>(SB), Z16
	VMOVDQU64 tail<>(SB), Z17
	VMOVDQU64 firsts<>(SB), Z18
	VMOVDQU64 seconds<>(SB), Z19
	VMOVDQU64 pairs<>(SB), Z20
	VMOVDQU64 thirds<>(SB), Z21
	CONST(const_askedFlags, Z22)
	CONST(0xff<<16|const_lostHeaders, Z23) // of Flags with Family: what has one value only
	CONST(4<<16, Z24)                      // this
	CONST(const_longestHeader<<32, Z25)
	CONST(const_portsValid, Z26)
	CONST(0xffffffff<<32, Z27)
	MOVQ $tailBytes, AX
	KMOVQ AX, K7

eight:
	MOVL $0xff, DX
	CMPQ R8, R11
	JLE  load
	MOVL R8, CX
	SUBL R11, CX
	SHLL CX, DX
	MOVQ R11, R8

load:
	KMOVB DX, K1
	IMUL3Q $const_packetSize, R8, AX
	ADDQ SI, AX

	// Those without a hint.
	VMOVDQU64 (const_packetHead+0*const_packetSize)(AX), Z0
	VMOVDQU64 (const_packetHead+2*const_packetSize)(AX), Z1
	VMOVDQU64 (const_packetHead+4*const_packetSize)(AX), Z2
	VMOVDQU64 (const_packetHead+6*const_packetSize)(AX), Z3
	VPERMT2D (const_packetHead+1*const_packetSize)(AX), Z16, Z0
	VPERMT2D (const_packetHead+3*const_packetSize)(AX), Z16, Z1
	VPERMT2D (const_packetHead+5*const_packetSize)(AX), Z16, Z2
	VPERMT2D (const_packetHead+7*const_packetSize)(AX), Z16, Z3
	VINSERTI64X4 $1, Y1, Z0, Z0
	VINSERTI64X4 $1, Y3, Z2, Z2
	VMOVDQA64 Z19, Z4
	VPERMI2Q Z2, Z0, Z4
	VPTESTNMQ Z4, Z4, K1, K1
	KORTESTB K1, K1
	JZ   next
	VPERMT2Q Z2, Z18, Z0                   // keyAddrs

	VMOVDQU64 (const_packetTail+0*const_packetSize)(AX), Z1
	VMOVDQU64 (const_packetTail+2*const_packetSize)(AX), Z2
	VMOVDQU64 (const_packetTail+4*const_packetSize)(AX), Z3
	VMOVDQU64 (const_packetTail+6*const_packetSize)(AX), Z4
	VPERMT2B.Z (const_packetTail+1*const_packetSize)(AX), Z17, K7, Z1
	VPERMT2B.Z (const_packetTail+3*const_packetSize)(AX), Z17, K7, Z2
	VPERMT2B.Z (const_packetTail+5*const_packetSize)(AX), Z17, K7, Z3
	VPERMT2B.Z (const_packetTail+7*const_packetSize)(AX), Z17, K7, Z4
	VMOVDQA64 Z20, Z5
	VMOVDQA64 Z20, Z6
	VPERMI2Q Z2, Z1, Z5
	VPERMI2Q Z4, Z3, Z6
	VPERMT2Q Z2, Z21, Z1
	VPERMT2Q Z4, Z21, Z3
	VINSERTI64X4 $1, Y6, Z5, Z2            // keyRest
	VSHUFI64X2 $0xee, Z6, Z5, Z4           // L4, End
	VINSERTI64X4 $1, Y3, Z1, Z3            // Flags, Family

	VPSLLQ $32, Z4, Z5
	VPSUBD Z5, Z4, Z4                      // End - L4 in the upper half
	VPCMPQ $5, Z25, Z4, K1, K2             // at least so long
	VPTESTMQ Z26, Z3, K1, K3
	KORB K2, K3, K2
	VPANDQ Z23, Z3, Z5
	VPCMPEQQ Z24, Z5, K2, K2
	VPANDQ Z22, Z3, Z3
	VPTERNLOGQ $0xec, Z27, Z3, Z4          // the kind: Z4 where Z27 is, and Z3

	VPCOMPRESSQ Z0, K2, Z0
	VPCOMPRESSQ Z2, K2, Z2
	VPCOMPRESSQ Z4, K2, Z4
	VMOVDQU64 Z0, ahead_key(DI)(R9*8)
	VMOVDQU64 Z2, (ahead_key+8*const_BurstSize)(DI)(R9*8)
	VMOVDQU64 Z4, ahead_kind(DI)(R9*8)
	KMOVB K2, BX
	POPCNTL BX, DX
	ADDQ DX, R9
	MOVL R8, CX
	SHLQ CX, BX
	ORQ  BX, R10

next:
	ADDQ $const_group, R8
	CMPQ R8, pkts_len+16(FP)
	JLT  eight

	KMOVQ R10, K1
	VPTERNLOGD $0xff, Z0, Z0, Z0           // noLane
	VMOVDQU64 lanes<>(SB), Z1
	VPEXPANDB Z1, K1, Z0
	VMOVDQU64 Z0, ahead_lane(DI)
	MOVQ R9, ret+32(FP)
	VZEROUPPER
	RET

// func descendBurst(a *ahead, trees, slots []slot, lanes int)
//
// DI a, R15 slots. R11 is the set of groups of eight lanes that are still to go a level down, R8 of those that have further to go.
// Lanes of a group behind the last one have a header of before.
TEXT ·descendBurst(SB), NOSPLIT, $0-64
	MOVQ a+0(FP), DI
	MOVQ trees_base+8(FP), R9
	MOVQ trees_len+16(FP), R10
	MOVQ slots_base+32(FP), R15
	MOVQ lanes+56(FP), R11
	XORL R8, R8
	ADDQ $(const_group-1), R11
	ANDQ $-const_group, R11
	JZ   done
	TESTQ R10, R10
	JZ   done
	CONST(1<<60, Z16)
	CONST(1<<const_maxCutBits-1, Z18)
	CONST(0xffffffff, Z19)
	SHRQ $3, R11
	MOVQ $-1, SI
	BZHIQ R11, SI, SI // the groups of one tree
	SHLQ $6, R11

	// The roots.
	XORL CX, CX // the tree's first group
	LEAQ ahead_at(DI), AX

tree:
	MOVQ (R9), DX
	VPBROADCASTQ DX, Z0
	SARQ $63, DX
	ANDQ SI, DX
	SHLQ CX, DX
	ORQ  DX, R8
	XORL BX, BX

root:
	VMOVDQU64 Z0, (AX)(BX*1)
	ADDQ $64, BX
	CMPQ BX, R11
	JCS  root
	ADDQ $8, R9
	ADDQ $(8*const_BurstSize), AX
	ADDL $(const_BurstSize/const_group), CX
	DECQ R10
	JNZ  tree

	// A step down for all.
level:
	MOVQ R8, R11
	XORL R8, R8
	TESTQ R11, R11
	JZ   done

step:
	TZCNTQ R11, BX
	BLSRQ R11, R11
	MOVL BX, AX
	SHLL $6, AX
	MOVL AX, CX
	ANDL $(8*const_BurstSize-1), CX
	VMOVDQU64 ahead_at(DI)(AX*1), Z0
	VPMOVQ2M Z0, K1                                         // nodes
	VPTESTMQ Z16, Z0, K2                                    // that cut by keyRest
	VMOVDQU64 ahead_key(DI)(CX*1), Z1
	VMOVDQU64 (ahead_key+8*const_BurstSize)(DI)(CX*1), K2, Z1
	VPSRLQ $32, Z0, Z2
	VPRORVQ Z2, Z1, Z1                                      // by the count's lowest 6 bits
	VPSRLQ $48, Z0, Z3
	VPTERNLOGQ $0x80, Z18, Z3, Z1                           // all three of them
	VPANDQ Z19, Z0, Z2
	VPADDQ.Z Z2, Z1, K1, Z10                                // a leaf loads the first slot
	GATHER(0, R15, 8)
	VMOVDQA64 Z11, K1, Z0
	VMOVDQU64 Z0, ahead_at(DI)(AX*1)
	VPMOVQ2M Z0, K1
	KMOVB K1, DX
	NEGL DX
	SBBQ DX, DX                                             // ones: a node is left
	NEGQ DX
	SHLXQ BX, DX, DX
	ORQ  DX, R8
	TESTQ R11, R11
	JNZ  step
	JMP  level

done:
	VZEROUPPER
	RET

// PAIRS loads eight pairs of words from base + disp + Z10: those of the lanes with even numbers, and those with odd ones. It changes
// X12 to X14, R9, R10, R12 and R13.
#define PAIRS(disp, base, evenX, evenY, evenZ, oddX, oddY, oddZ) \
	VMOVQ         X10, R9; \
	VPEXTRQ       $1, X10, R10; \
	VEXTRACTI64X2 $1, Y10, X12; \
	VEXTRACTI64X2 $2, Z10, X13; \
	VEXTRACTI64X2 $3, Z10, X14; \
	VMOVDQU64     disp(base)(R9*1), evenX; \
	VMOVDQU64     disp(base)(R10*1), oddX; \
	VMOVQ         X12, R9; \
	VPEXTRQ       $1, X12, R10; \
	VMOVQ         X13, R12; \
	VPEXTRQ       $1, X13, R13; \
	VINSERTI64X2  $1, disp(base)(R9*1), evenY, evenY; \
	VINSERTI64X2  $1, disp(base)(R10*1), oddY, oddY; \
	VMOVQ         X14, R9; \
	VPEXTRQ       $1, X14, R10; \
	VINSERTI64X2  $2, disp(base)(R12*1), evenZ, evenZ; \
	VINSERTI64X2  $2, disp(base)(R13*1), oddZ, oddZ; \
	VINSERTI64X2  $3, disp(base)(R9*1), evenZ, evenZ; \
	VINSERTI64X2  $3, disp(base)(R10*1), oddZ, oddZ

// Words of 16 bits of an entry and its lowest ports that stand in the entry itself, the others in the shape.
#define ownWords 0x1f1f1f1f

// COMPARE compares the first entries of eight lanes' runs: Z0 has the runs, K1 those that are not empty; CX is the lanes' first, in
// bytes. DI a, R11 entries, DX shapes. It puts those that agree into found, and leaves K1 to lanes whose entry is below what has
// been found with it, and whose run goes on. It keeps Z0, and R8, R14, R15, AX, BX and CX.
//
// Of four lanes with even numbers, and of four with odd ones, in words of 16 bits:
//
//	lane    addr (4 words)    destination port, source port, protocol, port of the wire
//	        & mask            & all ones: ones from which as many were shifted out as bits are free
//	        - entry.addr      - lowest: of the destination port from the entry, of the others from the shape
//	        nothing is left   is at most the shape's span
#define COMPARE \
	VPSRLQ      $(const_entryShift-4), Z0, Z10; \
	VPANDQ      Z21, Z10, Z10; \
	VPMAXUQ     Z18, Z10, Z10; \ // an empty run loads the first entry
	PAIRS(-16, R11, X1, Y1, Z1, X2, Y2, Z2); \
	VPUNPCKHQDQ Z2, Z1, Z3; \ // meta
	VPSRLQ      $(const_shapeShift-4), Z3, Z10; \
	VPANDQ      Z16, Z10, Z10; \
	PAIRS(0, DX, X4, Y4, Z4, X5, Y5, Z5); \
	VMOVDQU64   ahead_key(DI)(CX*1), Z10; \
	VMOVDQU64   (ahead_key+8*const_BurstSize)(DI)(CX*1), Z11; \
	VPUNPCKLQDQ Z11, Z10, Z6; \
	VPUNPCKHQDQ Z11, Z10, Z7; \
	VPSHUFB     Z24, Z4, Z8; \
	VPSHUFB     Z24, Z5, Z9; \
	VPSLLVD     Z8, Z17, Z8; \ // mask
	VPSLLVD     Z9, Z17, Z9; \
	VPANDQ      Z8, Z6, Z6; \
	VPANDQ      Z9, Z7, Z7; \
	VPSHUFB     Z25, Z4, Z8; \ // span
	VPSHUFB     Z25, Z5, Z9; \
	VMOVDQU16   Z1, K6, Z4; \
	VMOVDQU16   Z2, K6, Z5; \
	VPSUBW      Z4, Z6, Z6; \
	VPSUBW      Z5, Z7, Z7; \
	VPSUBUSW    Z8, Z6, Z6; \
	VPSUBUSW    Z9, Z7, Z7; \
	VPUNPCKLQDQ Z7, Z6, Z8; \
	VPUNPCKHQDQ Z7, Z6, Z9; \
	VPORQ       Z8, Z9, Z9; \
	VPTESTNMQ   Z9, Z9, K1, K2; \
	VMOVDQU64   ahead_found(DI)(CX*1), Z8; \
	VPMINUQ     Z3, Z8, K2, Z8; \
	VMOVDQU64   Z8, ahead_found(DI)(CX*1); \
	VPCMPUQ     $1, Z8, Z3, K1, K1; \
	VPTESTMQ    Z19, Z0, K1, K1

// KEEP goes on with the lanes of a group that K1 has, whose runs are in Z0: together, in the set R8, where they are enough, else
// one by one, in the list, which has R14 lanes: far fewer than there is room for, for a group comes to it once. BX is the group, AX 64
// times that. It changes AX, R9, R10, R12, R13 and X1.
#define KEEP \
	KMOVB        K1, R9; \
	POPCNTL      R9, R10; \
	VMOVDQA64.Z  Z0, K1, Z0; \
	VMOVDQU64    Z0, ahead_at(DI)(AX*1); \
	SHRL         $3, AX; \
	VPBROADCASTW AX, X1; \
	VPADDW       X22, X1, X1; \
	VPCOMPRESSW  X1, K1, X1; \
	VMOVDQU64    X1, ahead_list(DI)(R14*2); \
	XORL         R12, R12; \
	CMPL         R10, $enoughLanes; \
	SETCC        R12; \
	SHLXQ        BX, R12, R13; \
	ORQ          R13, R8; \
	DECQ         R12; \
	ANDQ         R12, R10; \
	ADDQ         R10, R14

// enoughLanes are as many as take longer one by one than as a group.
#define enoughLanes 4

// The numbers of a group's lanes.
DATA numbers<>+0(SB)/8, $0x0003000200010000
DATA numbers<>+8(SB)/8, $0x0007000600050004
GLOBL numbers<>(SB), RODATA|NOPTR, $16

// func runsBurst(a *ahead, trees int, places []slot, entries []narrow, shapes []shape, lanes int) (left int)
//
// DI a, R15 places, R11 entries, DX shapes. SI is the set of groups that the round is still to look at, R8 of those for the next one, R14
// how long the list is. A lane whose run is done has 0 in at.
TEXT ·runsBurst(SB), NOSPLIT, $0-104
	MOVQ a+0(FP), DI
	MOVQ trees+8(FP), R10
	MOVQ lanes+88(FP), R11
	XORL R8, R8
	XORL R14, R14
	ADDQ $(const_group-1), R11
	SHRQ $3, R11
	JZ   done
	TESTQ R10, R10
	JZ   done
	CMPQ entries_len+48(FP), $0
	JEQ  done
	MOVQ $-1, SI
	BZHIQ R11, SI, SI // the groups of one tree
	XORL CX, CX

tree:
	SHLXQ CX, SI, DX
	ORQ  DX, R8
	ADDL $(const_BurstSize/const_group), CX
	DECQ R10
	JNZ  tree
	CONST(const_shapeMask<<4, Z16)
	VPTERNLOGD $0xff, Z17, Z17, Z17
	VBROADCASTI64X2 ·freeBits(SB), Z24
	VBROADCASTI64X2 ·spans(SB), Z25
	CONST(16, Z18)
	CONST(~(const_entryMask<<const_entryShift), Z19)
	CONST(const_entryMask<<4, Z21)
	CONST((1<<const_entryShift)-(1<<const_moreShift), Z20)
	CONST(0xffffffff, Z23)
	MOVL $ownWords, AX
	KMOVD AX, K6
	MOVQ places_base+16(FP), R15
	MOVQ entries_base+40(FP), R11
	MOVQ shapes_base+64(FP), DX
	VMOVDQU64 numbers<>(SB), X22
	MOVQ R8, SI
	XORL R8, R8

	// The first entries of all runs.
first:
	TZCNTQ SI, BX
	BLSRQ SI, SI
	MOVL BX, AX
	SHLL $6, AX
	MOVL AX, CX
	ANDL $(8*const_BurstSize-1), CX
	VMOVDQU64 ahead_at(DI)(AX*1), Z0
	VPTESTMQ Z0, Z0, K1
	COMPARE
	KEEP
	TESTQ SI, SI
	JNZ  first

	// Another entry of all runs.
round:
	TESTQ R8, R8
	JZ   done
	MOVQ R8, SI
	XORL R8, R8

another:
	TZCNTQ SI, BX
	BLSRQ SI, SI
	MOVL BX, AX
	SHLL $6, AX
	MOVL AX, CX
	ANDL $(8*const_BurstSize-1), CX
	VMOVDQU64 ahead_at(DI)(AX*1), Z0
	VPSRLQ $const_moreShift, Z0, Z1
	VPTESTMQ Z1, Z1, K2
	VPADDQ Z20, Z0, Z2                     // on to the entry behind
	VPANDQ Z23, Z0, Z10                    // or to a place
	GATHER(0, R15, 8)
	VMOVDQA64 Z2, K2, Z11
	VMOVDQA64 Z11, Z0
	VPTESTMQ Z0, Z0, K1
	COMPARE
	KEEP
	TESTQ SI, SI
	JNZ  another
	JMP  round

done:
	MOVQ R14, left+96(FP)
	VZEROUPPER
	RET

// RULES loads the rules of eight lanes: Z10 has their indices, which are their ranks without the bits of the gap, R11 where they begin; into Z11. It changes X12 to X14, R9, R10, R12 and R13.
#define RULES \
	VMOVQ         X10, R9; \
	VPEXTRQ       $1, X10, R10; \
	VEXTRACTI64X2 $1, Y10, X12; \
	VEXTRACTI64X2 $2, Z10, X13; \
	VEXTRACTI64X2 $3, Z10, X14; \
	VMOVD         (R11)(R9*4), X11; \
	VPINSRD       $1, (R11)(R10*4), X11, X11; \
	VMOVQ         X12, R12; \
	VPEXTRQ       $1, X12, R13; \
	VMOVQ         X13, R9; \
	VPEXTRQ       $1, X13, R10; \
	VPINSRD       $2, (R11)(R12*4), X11, X11; \
	VPINSRD       $3, (R11)(R13*4), X11, X11; \
	VMOVQ         X14, R12; \
	VPEXTRQ       $1, X14, R13; \
	VMOVD         (R11)(R9*4), X12; \
	VPINSRD       $1, (R11)(R10*4), X12, X12; \
	VPINSRD       $2, (R11)(R12*4), X12, X12; \
	VPINSRD       $3, (R11)(R13*4), X12, X12; \
	VINSERTI64X2  $1, X12, Y11, Y11; \
	VPMOVZXDQ     Y11, Z11

// func settleBurst(a *ahead, shapes []shape, list []compiledRule, low, shift, policy uint64, lanes int)
//
// DI a, R15 shapes, R11 rules, BX the first of eight lanes, SI behind the last one.
TEXT ·settleBurst(SB), NOSPLIT, $0-88
	MOVQ a+0(FP), DI
	MOVQ shapes_base+8(FP), R15
	MOVQ list_base+32(FP), R11
	VPBROADCASTQ low+56(FP), Z29
	VMOVQ shift+64(FP), X30
	VPBROADCASTQ policy+72(FP), Z16
	MOVQ lanes+80(FP), SI
	VPTERNLOGD $0xff, Z17, Z17, Z17                         // noEntry
	VMOVDQU64 ahead_same(DI), Y18
	CONST(const_shapeMask<<4, Z19)
	CONST(15, Z20)
	CONST(const_decides, Z21)
	CONST(const_accepts, Z22)
	CONST(1, Z23)
	CONST(63, Z25)
	CONST(const_oddHeaders, Z26)
	CONST(const_New<<const_settledState, Z27)
	CONST(1<<const_idBits-1, Z28)
	XORL BX, BX

eight:
	VMOVDQU64 ahead_found(DI)(BX*8), Z0
	VPCMPUQ $4, Z17, Z0, K1                                 // a rule's
	VPSRLQ $(const_shapeShift-4), Z0, Z10
	VPANDQ.Z Z19, Z10, K1, Z10
	GATHER(shape_low, R15, 1)
	VPSRLQ $const_verbShift, Z11, Z1
	VPANDQ Z20, Z1, Z1
	VPSRLVQ Z1, Z21, Z2
	VPTESTMQ Z23, Z2, K1, K2                                // that decides
	VPSRLVQ Z1, Z22, Z1
	VPANDQ Z23, Z1, Z1
	VPSLLQ $const_settledVerdict, Z1, Z1
	VPANDQ Z29, Z0, Z2
	VPCMPEQQ Z29, Z2, K2, K2                                // and was compiled
	VPSRLQ.Z X30, Z0, K1, Z10
	RULES
	VPANDQ Z28, Z11, Z11                                    // their ids
	VPORQ Z11, Z1, Z1
	VMOVDQA64 Z16, Z3
	VMOVDQA64 Z1, K1, Z3                                    // rule and verdict
	KNOTB K1, K1
	KORB K1, K2, K2                                         // settled

	VMOVDQU64 (ahead_key+8*const_BurstSize)(DI)(BX*8), Z0
	VPSRLQ $48, Z0, Z1
	VPSLLQ $const_settledPort, Z1, Z1
	VPSRLQ $38, Z0, Z2                                      // which word
	VPERMQ Z18, Z2, Z2
	VPSRLQ $32, Z0, Z0
	VPANDQ Z25, Z0, Z0
	VPSRLVQ Z0, Z2, Z0                                      // which bit
	VPTESTNMQ ahead_kind(DI)(BX*8), Z26, K3
	VPANDQ.Z Z23, Z0, K3, Z0
	VPSLLQ $const_settledKeep, Z0, Z0
	VPTERNLOGQ $0xfe, Z0, Z27, Z1                           // port, state and keep
	VPADDQ Z23, Z3, Z2
	VPSLLQ $const_settledRule, Z2, Z2
	VPTERNLOGQ $0xfe, Z3, Z2, Z1
	VMOVDQA64.Z Z1, K2, Z1
	VMOVDQU64 Z1, ahead_found(DI)(BX*8)
	ADDQ $const_group, BX
	CMPQ BX, SI
	JLT  eight
	VZEROUPPER
	RET
