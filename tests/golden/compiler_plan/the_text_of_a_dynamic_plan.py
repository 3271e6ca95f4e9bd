def measure(s):
    slot0 = 0
    slot1 = slot0 + (128*s + 63 & -64)
    return slot1 + (64*s + 63 & -64), 0, (slot1, slot0, )

def views(at, s):
    return (at(0, torch.float32, (s, 16), (16, 1), 0), at(1, torch.float32, (s, 32), (32, 1), 0), )

def call(args):
    n, x, w, = args
    args.clear()
    s = n
    try: arena = _arenas.pop()
    except IndexError: arena = _new_arena()
    T, _, v1, v2, = arena.get((_me, s)) or _fit(arena, s)
    # v1 = k0(x)
    if e := _s0(T, _threads(), x): _fail(0, e)
    del x
    torch.mm(v1, w, out=v2)
    del w
    # v3 = k1(v2)
    v3 = _empty((s, 32), (32, 1), torch.float32)
    if e := _s1(T, v3): _fail(1, e)
    if len(_arenas) < 4: _arenas.append(arena)
    return [v3, 2*s]
