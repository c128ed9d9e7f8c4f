/* The peer of `cargo xtask bench xdp`: what a load balancer costs that does only the textbook's part. IPv4, TCP, no options,
 * no fragments; VIPs in a hash map; a Maglev ring in an array; a per-flow table or none; IPIP; XDP_TX. Written for this
 * comparison, and never part of a node. The wrapper does what the one around our own program does. */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>

#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define RING 65537
#define RINGS 4
#define OUTER ((int)sizeof(struct iphdr))

struct vip_key {
	__u32 addr;
	__u16 port;
	__u8 proto;
	__u8 pad;
};

struct flow_key {
	__u32 src;
	__u32 dst;
	__u32 ports;
	__u32 proto;
};

struct traffic {
	__u64 packets;
	__u64 bytes;
};

/* As waggle_ebpf_common::edge::BenchRun. */
struct bench_run {
	__u32 flow_mask;
	__u32 grown;
	__u32 n;
	__u32 pad;
	__u64 sent;
	__u64 others;
};

#define MAP(name, kind, size, k, v)                                                                \
	struct {                                                                                   \
		__uint(type, kind);                                                                \
		__uint(max_entries, size);                                                         \
		__type(key, k);                                                                    \
		__type(value, v);                                                                  \
	} name SEC(".maps")

MAP(PEER_VIPS, BPF_MAP_TYPE_HASH, 16384, struct vip_key, __u32);
MAP(PEER_RING, BPF_MAP_TYPE_ARRAY, RING * RINGS, __u32, __u32);
MAP(PEER_BACKENDS, BPF_MAP_TYPE_ARRAY, 4096, __u32, __u32);
MAP(PEER_FLOWS, BPF_MAP_TYPE_LRU_HASH, 2097152, struct flow_key, __u32);
MAP(PEER_TRAFFIC, BPF_MAP_TYPE_PERCPU_ARRAY, 16384, __u32, struct traffic);
MAP(BENCH_RUN, BPF_MAP_TYPE_ARRAY, 1, __u32, struct bench_run);

static __always_inline __u32 hash_of(const struct flow_key *flow)
{
	__u64 h = ((__u64)flow->src << 32 | flow->ports) * 0x9E3779B97F4A7C15ull;

	h = (h ^ (h >> 32) ^ flow->dst) * 0xD6E8FEB86659FD93ull;
	return h >> 32;
}

static __always_inline int choose(const struct flow_key *flow, __u32 vip, __u32 *real)
{
	__u32 slot = vip % RINGS * RING + (__u32)(((__u64)hash_of(flow) * RING) >> 32);
	__u32 *found = bpf_map_lookup_elem(&PEER_RING, &slot);

	if (!found)
		return 0;
	*real = *found;
	return 1;
}

static __always_inline int balance(struct xdp_md *ctx, const int with_table)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = data + sizeof(*eth);
	struct tcphdr *tcp = (void *)(ip + 1);

	if ((void *)(tcp + 1) > end)
		return XDP_PASS;
	if (eth->h_proto != bpf_htons(ETH_P_IP) || ip->ihl != 5 || ip->protocol != IPPROTO_TCP ||
	    (ip->frag_off & bpf_htons(0x3fff)))
		return XDP_PASS;

	struct vip_key key = { ip->daddr, tcp->dest, IPPROTO_TCP, 0 };
	__u32 *vip = bpf_map_lookup_elem(&PEER_VIPS, &key);

	if (!vip)
		return XDP_PASS;

	struct flow_key flow = { ip->saddr, ip->daddr, *(__u32 *)tcp, IPPROTO_TCP };
	__u32 real = 0, id = *vip, *known = 0;

	if (with_table && !tcp->syn)
		known = bpf_map_lookup_elem(&PEER_FLOWS, &flow);
	if (known) {
		real = *known;
	} else {
		if (!choose(&flow, id, &real))
			return XDP_DROP;
		if (with_table)
			bpf_map_update_elem(&PEER_FLOWS, &flow, &real, BPF_ANY);
	}

	__u32 *node = bpf_map_lookup_elem(&PEER_BACKENDS, &real);

	if (!node)
		return XDP_DROP;

	__u32 to = *node;
	__u32 from = bpf_htonl(0xac100000u | (hash_of(&flow) & 0xffff));
	__u16 inner = bpf_ntohs(ip->tot_len);
	struct traffic *traffic = bpf_map_lookup_elem(&PEER_TRAFFIC, &id);

	if (traffic) {
		traffic->packets++;
		traffic->bytes += inner;
	}
	if (bpf_xdp_adjust_head(ctx, -OUTER))
		return XDP_DROP;
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	eth = data;
	ip = data + sizeof(*eth);
	if ((void *)(ip + 1) > end)
		return XDP_DROP;
	__builtin_memcpy(eth, "\x02\0\0\0\0\2\x02\0\0\0\0\1\x08", sizeof(*eth));

	struct iphdr outer = {
		.version = 4,
		.ihl = 5,
		.tot_len = bpf_htons(inner + OUTER),
		.ttl = 64,
		.protocol = IPPROTO_IPIP,
		.saddr = from,
		.daddr = to,
	};
	__u32 sum = 0;
	__u16 *words = (__u16 *)&outer;

#pragma unroll
	for (int i = 0; i < 10; i++)
		sum += words[i];
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	outer.check = ~sum;
	*ip = outer;
	return XDP_TX;
}

static __attribute__((noinline)) int stateless(struct xdp_md *ctx) { return balance(ctx, 0); }
static __attribute__((noinline)) int table(struct xdp_md *ctx) { return balance(ctx, 1); }
static __attribute__((noinline)) int null(struct xdp_md *ctx)
{
	return *(volatile __u32 *)&ctx->data ? XDP_TX : XDP_PASS;
}

static __always_inline int wrap(struct xdp_md *ctx, int (*run)(struct xdp_md *))
{
	__u32 zero = 0;
	struct bench_run *config = bpf_map_lookup_elem(&BENCH_RUN, &zero);
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;

	if (!config || data + 54 > end)
		return XDP_ABORTED;
	if (config->flow_mask) {
		__u32 flow = (config->n++ * 2654435761u) & config->flow_mask;

		*(__u16 *)(data + 34) = flow;
		*(__u16 *)(data + 28) = (flow >> 16) + 0x0a0a;
	}

	__u64 first = *(__u64 *)data;
	__u32 second = *(__u32 *)(data + 8);
	__u16 third = *(__u16 *)(data + 12);
	int verdict = run(ctx);

	if (verdict == XDP_TX) {
		if (config->grown && bpf_xdp_adjust_head(ctx, OUTER))
			return XDP_ABORTED;
		config->sent++;
	} else {
		config->others++;
	}
	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	if (data + 54 > end)
		return XDP_ABORTED;
	*(__u64 *)data = first;
	*(__u32 *)(data + 8) = second;
	*(__u16 *)(data + 12) = third;
	return verdict;
}

SEC("xdp") int peer_stateless(struct xdp_md *ctx) { return wrap(ctx, stateless); }
SEC("xdp") int peer_table(struct xdp_md *ctx) { return wrap(ctx, table); }
SEC("xdp") int peer_null(struct xdp_md *ctx) { return wrap(ctx, null); }

char LICENSE[] SEC("license") = "GPL";
