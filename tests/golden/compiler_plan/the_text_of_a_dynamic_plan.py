_pack1 = _struct('1Q').pack_into
_pack2 = _struct('2Q').pack_into

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
    T, v1, v2, = arena.get((_me, s)) or _fit(arena, s)
    # v1 = k0(x)
    _pack2(T, 16, _threads(), x.data_ptr())
    if e := _run(_s0, T): _fail(0, e)
    del x
    torch.mm(v1, w, out=v2)
    del w
    # v3 = k1(v2)
    v3 = _empty((s, 32), (32, 1), torch.float32)
    _pack1(T, 32, v3.data_ptr())
    if e := _run(_s1, T): _fail(1, e)
    if len(_arenas) < 4: _arenas.append(arena)
    return [v3, 2*s]
