/* SPDX-License-Identifier: MIT */
/*
 * Sizes and places of every public struct where long and pointers have 64 bits
 * (x86_64 and aarch64 among them). Programs are built against these numbers: a
 * number may only be added, for a member at the end of a struct that begins with
 * its size; those of qchain-backend.h may change together with its version.
 */
#include <stddef.h>

#include <qchain-backend.h>
#include <qchain-remote.h>
#include <qchain-source.h>
#include <qchain-trace.h>
#include <qchain-write.h>
#include <qchain.h>

#if defined(__LP64__)

#define SIZE(type, n) _Static_assert(sizeof(type) == (n), "size of " #type)
#define AT(type, member, n) \
    _Static_assert(offsetof(type, member) == (n), "place of " #type "." #member)

/* qchain_reference */
SIZE(qchain_reference, 48);
AT(qchain_reference, struct_size, 0);
AT(qchain_reference, layer, 8);
AT(qchain_reference, kind, 12);
AT(qchain_reference, from, 16);
AT(qchain_reference, name, 24);
AT(qchain_reference, resolved, 32);
AT(qchain_reference, format, 40);

/* qchain_resolution */
SIZE(qchain_resolution, 40);
AT(qchain_resolution, struct_size, 0);
AT(qchain_resolution, name, 8);
AT(qchain_resolution, format, 16);
AT(qchain_resolution, fd, 24);
AT(qchain_resolution, reserved0, 28);
AT(qchain_resolution, store, 32);

/* qchain_env_opts */
SIZE(qchain_env_opts, 88);
AT(qchain_env_opts, struct_size, 0);
AT(qchain_env_opts, flags, 8);
AT(qchain_env_opts, threads, 12);
AT(qchain_env_opts, index_bytes, 16);
AT(qchain_env_opts, block_bytes, 24);
AT(qchain_env_opts, max_open_files, 32);
AT(qchain_env_opts, log_level, 36);
AT(qchain_env_opts, log, 40);
AT(qchain_env_opts, log_data, 48);
AT(qchain_env_opts, log_free, 56);
AT(qchain_env_opts, policy, 64);
AT(qchain_env_opts, walkers, 72);
AT(qchain_env_opts, reserved0, 76);
AT(qchain_env_opts, remote, 80);

/* qchain_open_opts */
SIZE(qchain_open_opts, 88);
AT(qchain_open_opts, struct_size, 0);
AT(qchain_open_opts, flags, 8);
AT(qchain_open_opts, max_layers, 12);
AT(qchain_open_opts, format, 16);
AT(qchain_open_opts, snapshot, 24);
AT(qchain_open_opts, data_file, 32);
AT(qchain_open_opts, fd, 40);
AT(qchain_open_opts, reserved0, 44);
AT(qchain_open_opts, store, 48);
AT(qchain_open_opts, policy, 56);
AT(qchain_open_opts, resolver, 64);
AT(qchain_open_opts, resolver_data, 72);
AT(qchain_open_opts, index, 80);

/* qchain_snapshot_info */
SIZE(qchain_snapshot_info, 96);
AT(qchain_snapshot_info, id, 0);
AT(qchain_snapshot_info, name, 8);
AT(qchain_snapshot_info, vm_state_size, 16);
AT(qchain_snapshot_info, disk_size, 24);
AT(qchain_snapshot_info, date_sec, 32);
AT(qchain_snapshot_info, date_nsec, 40);
AT(qchain_snapshot_info, flags, 44);
AT(qchain_snapshot_info, vm_clock_nsec, 48);
AT(qchain_snapshot_info, icount, 56);

/* qchain_bitmap_info */
SIZE(qchain_bitmap_info, 56);
AT(qchain_bitmap_info, name, 0);
AT(qchain_bitmap_info, granularity, 8);
AT(qchain_bitmap_info, flags, 16);
AT(qchain_bitmap_info, reserved0, 20);

/* qchain_image_info */
SIZE(qchain_image_info, 184);
AT(qchain_image_info, struct_size, 0);
AT(qchain_image_info, flags, 8);
AT(qchain_image_info, version, 12);
AT(qchain_image_info, name, 16);
AT(qchain_image_info, format, 24);
AT(qchain_image_info, virtual_size, 32);
AT(qchain_image_info, file_size, 40);
AT(qchain_image_info, allocated_size, 48);
AT(qchain_image_info, cluster_size, 56);
AT(qchain_image_info, subcluster_size, 64);
AT(qchain_image_info, refcount_bits, 72);
AT(qchain_image_info, compression, 76);
AT(qchain_image_info, crypt_method, 80);
AT(qchain_image_info, n_snapshots, 84);
AT(qchain_image_info, n_bitmaps, 88);
AT(qchain_image_info, n_unknown_extensions, 92);
AT(qchain_image_info, backing_name, 96);
AT(qchain_image_info, backing_resolved, 104);
AT(qchain_image_info, backing_format, 112);
AT(qchain_image_info, data_file, 120);
AT(qchain_image_info, backing_name_raw, 128);
AT(qchain_image_info, data_file_raw, 136);
AT(qchain_image_info, snapshots, 144);
AT(qchain_image_info, bitmaps, 152);
AT(qchain_image_info, incompatible_features, 160);
AT(qchain_image_info, compatible_features, 168);
AT(qchain_image_info, autoclear_features, 176);

/* qchain_extent */
SIZE(qchain_extent, 64);
AT(qchain_extent, offset, 0);
AT(qchain_extent, length, 8);
AT(qchain_extent, host_offset, 16);
AT(qchain_extent, flags, 24);
AT(qchain_extent, layer, 28);
AT(qchain_extent, source, 32);
AT(qchain_extent, host_length, 36);
AT(qchain_extent, reserved, 40);

/* qchain_sink */
SIZE(qchain_sink, 32);
AT(qchain_sink, struct_size, 0);
AT(qchain_sink, write, 8);
AT(qchain_sink, zero, 16);
AT(qchain_sink, data, 24);

/* qchain_copy_opts */
SIZE(qchain_copy_opts, 56);
AT(qchain_copy_opts, struct_size, 0);
AT(qchain_copy_opts, flags, 8);
AT(qchain_copy_opts, threads, 12);
AT(qchain_copy_opts, offset, 16);
AT(qchain_copy_opts, length, 24);
AT(qchain_copy_opts, chunk_bytes, 32);
AT(qchain_copy_opts, job, 40);
AT(qchain_copy_opts, salvaged_bytes, 48);

/* qchain_compare_opts */
SIZE(qchain_compare_opts, 40);
AT(qchain_compare_opts, struct_size, 0);
AT(qchain_compare_opts, flags, 8);
AT(qchain_compare_opts, threads, 12);
AT(qchain_compare_opts, job, 16);
AT(qchain_compare_opts, result, 24);
AT(qchain_compare_opts, failed, 28);
AT(qchain_compare_opts, offset, 32);

/* qchain_stats */
SIZE(qchain_stats, 192);
AT(qchain_stats, struct_size, 0);
AT(qchain_stats, reads, 8);
AT(qchain_stats, read_bytes, 16);
AT(qchain_stats, store_reads, 24);
AT(qchain_stats, store_bytes, 32);
AT(qchain_stats, meta_reads, 40);
AT(qchain_stats, meta_bytes, 48);
AT(qchain_stats, decoded_clusters, 56);
AT(qchain_stats, decoded_hits, 64);
AT(qchain_stats, index_fills, 72);
AT(qchain_stats, index_evictions, 80);
AT(qchain_stats, index_bytes, 88);
AT(qchain_stats, block_bytes, 96);
AT(qchain_stats, open_files, 104);
AT(qchain_stats, file_opens, 112);
AT(qchain_stats, sidecar_reads, 120);
AT(qchain_stats, sidecar_bytes, 128);
AT(qchain_stats, queue_requests, 136);
AT(qchain_stats, queue_uring, 144);
AT(qchain_stats, queue_leaf, 152);
AT(qchain_stats, queue_walks, 160);
AT(qchain_stats, store_writes, 168);
AT(qchain_stats, store_write_bytes, 176);
AT(qchain_stats, flushes, 184);

/* qchain_queue_opts */
SIZE(qchain_queue_opts, 16);
AT(qchain_queue_opts, struct_size, 0);
AT(qchain_queue_opts, flags, 8);
AT(qchain_queue_opts, depth, 12);

/* qchain_completion */
SIZE(qchain_completion, 32);
AT(qchain_completion, user, 0);
AT(qchain_completion, result, 8);
AT(qchain_completion, reserved0, 12);
AT(qchain_completion, error, 16);
AT(qchain_completion, reserved1, 24);

/* qchain_index_opts */
SIZE(qchain_index_opts, 32);
AT(qchain_index_opts, struct_size, 0);
AT(qchain_index_opts, flags, 8);
AT(qchain_index_opts, threads, 12);
AT(qchain_index_opts, name, 16);
AT(qchain_index_opts, job, 24);

/* qchain_index_file */
SIZE(qchain_index_file, 96);
AT(qchain_index_file, layer, 0);
AT(qchain_index_file, flags, 4);
AT(qchain_index_file, name, 8);
AT(qchain_index_file, location, 16);
AT(qchain_index_file, format, 24);
AT(qchain_index_file, virtual_size, 32);
AT(qchain_index_file, cluster_size, 40);
AT(qchain_index_file, size, 48);
AT(qchain_index_file, mtime_ns, 56);

/* qchain_index_info */
SIZE(qchain_index_info, 88);
AT(qchain_index_info, struct_size, 0);
AT(qchain_index_info, flags, 8);
AT(qchain_index_info, version, 12);
AT(qchain_index_info, name, 16);
AT(qchain_index_info, why_not, 24);
AT(qchain_index_info, file_size, 32);
AT(qchain_index_info, virtual_size, 40);
AT(qchain_index_info, built_ns, 48);
AT(qchain_index_info, n_runs, 56);
AT(qchain_index_info, n_pages, 64);
AT(qchain_index_info, n_layers, 68);
AT(qchain_index_info, n_files, 72);
AT(qchain_index_info, reserved0, 76);
AT(qchain_index_info, files, 80);

/* qchain_iov */
SIZE(qchain_iov, 16);
AT(qchain_iov, base, 0);
AT(qchain_iov, len, 8);

/* qchain_store_identity */
SIZE(qchain_store_identity, 176);
AT(qchain_store_identity, struct_size, 0);
AT(qchain_store_identity, flags, 8);
AT(qchain_store_identity, reserved0, 12);
AT(qchain_store_identity, size, 16);
AT(qchain_store_identity, mtime_ns, 24);
AT(qchain_store_identity, device, 32);
AT(qchain_store_identity, inode, 40);
AT(qchain_store_identity, etag, 48);

/* qchain_store_limits */
SIZE(qchain_store_limits, 32);
AT(qchain_store_limits, struct_size, 0);
AT(qchain_store_limits, align_memory, 8);
AT(qchain_store_limits, align_offset, 12);
AT(qchain_store_limits, max_transfer, 16);
AT(qchain_store_limits, parallel, 24);
AT(qchain_store_limits, reserved0, 28);

/* qchain_store_read */
SIZE(qchain_store_read, 56);
AT(qchain_store_read, struct_size, 0);
AT(qchain_store_read, buf, 8);
AT(qchain_store_read, length, 16);
AT(qchain_store_read, offset, 24);
AT(qchain_store_read, flags, 32);
AT(qchain_store_read, reserved0, 36);
AT(qchain_store_read, err, 40);
AT(qchain_store_read, done, 48);

/* qchain_store_extent */
SIZE(qchain_store_extent, 24);
AT(qchain_store_extent, offset, 0);
AT(qchain_store_extent, length, 8);
AT(qchain_store_extent, hole, 16);
AT(qchain_store_extent, reserved0, 20);

/* qchain_store_ops */
SIZE(qchain_store_ops, 160);
AT(qchain_store_ops, struct_size, 0);
AT(qchain_store_ops, version, 8);
AT(qchain_store_ops, flags, 12);
AT(qchain_store_ops, name, 16);
AT(qchain_store_ops, close, 24);
AT(qchain_store_ops, size, 32);
AT(qchain_store_ops, pread, 40);
AT(qchain_store_ops, preadv, 48);
AT(qchain_store_ops, pread_nowait, 56);
AT(qchain_store_ops, pwrite, 64);
AT(qchain_store_ops, flush, 72);
AT(qchain_store_ops, resize, 80);
AT(qchain_store_ops, discard, 88);
AT(qchain_store_ops, zero, 96);
AT(qchain_store_ops, extents, 104);
AT(qchain_store_ops, copy_range, 112);
AT(qchain_store_ops, limits, 120);
AT(qchain_store_ops, identity, 128);
AT(qchain_store_ops, allocated, 136);
AT(qchain_store_ops, submit, 144);
AT(qchain_store_ops, pwritev, 152);

/* qchain_store */
SIZE(qchain_store, 32);
AT(qchain_store, struct_size, 0);
AT(qchain_store, ops, 8);
AT(qchain_store, obj, 16);
AT(qchain_store, name, 24);

/* qchain_credentials */
SIZE(qchain_credentials, 48);
AT(qchain_credentials, struct_size, 0);
AT(qchain_credentials, flags, 8);
AT(qchain_credentials, reserved0, 12);
AT(qchain_credentials, access_key, 16);
AT(qchain_credentials, secret_key, 24);
AT(qchain_credentials, session_token, 32);
AT(qchain_credentials, expires, 40);

/* qchain_cache_info */
SIZE(qchain_cache_info, 80);
AT(qchain_cache_info, struct_size, 0);
AT(qchain_cache_info, objects, 8);
AT(qchain_cache_info, bytes, 16);
AT(qchain_cache_info, damaged, 24);
AT(qchain_cache_info, checked, 32);
AT(qchain_cache_info, freed, 40);
AT(qchain_cache_info, reserved, 48);

/* qchain_remote_stats */
SIZE(qchain_remote_stats, 216);
AT(qchain_remote_stats, struct_size, 0);
AT(qchain_remote_stats, requests, 8);
AT(qchain_remote_stats, bytes, 16);
AT(qchain_remote_stats, sent_bytes, 24);
AT(qchain_remote_stats, connections, 32);
AT(qchain_remote_stats, retries, 40);
AT(qchain_remote_stats, hedges, 48);
AT(qchain_remote_stats, redirects, 56);
AT(qchain_remote_stats, wasted_bytes, 64);
AT(qchain_remote_stats, memory_hits, 72);
AT(qchain_remote_stats, memory_bytes, 80);
AT(qchain_remote_stats, joined, 88);
AT(qchain_remote_stats, disk_hits, 96);
AT(qchain_remote_stats, disk_bytes, 104);
AT(qchain_remote_stats, disk_stores, 112);
AT(qchain_remote_stats, disk_damaged, 120);
AT(qchain_remote_stats, region_hits, 128);
AT(qchain_remote_stats, region_bytes, 136);
AT(qchain_remote_stats, region_stores, 144);
AT(qchain_remote_stats, region_faults, 152);
AT(qchain_remote_stats, failovers, 160);
AT(qchain_remote_stats, first_byte_p50_us, 168);
AT(qchain_remote_stats, first_byte_p90_us, 176);
AT(qchain_remote_stats, first_byte_p99_us, 184);
AT(qchain_remote_stats, total_p50_us, 192);
AT(qchain_remote_stats, total_p90_us, 200);
AT(qchain_remote_stats, total_p99_us, 208);

/* Enums are ints, whatever their values. */
SIZE(enum qchain_code, 4);
SIZE(enum qchain_open_flags, 4);
SIZE(enum qchain_image_flags, 4);
SIZE(enum qchain_extent_flags, 4);

/* qchain_create_opts */
SIZE(qchain_create_opts, 88);
AT(qchain_create_opts, struct_size, 0);
AT(qchain_create_opts, flags, 8);
AT(qchain_create_opts, version, 12);
AT(qchain_create_opts, format, 16);
AT(qchain_create_opts, size, 24);
AT(qchain_create_opts, cluster_size, 32);
AT(qchain_create_opts, refcount_bits, 40);
AT(qchain_create_opts, compression, 44);
AT(qchain_create_opts, preallocation, 48);
AT(qchain_create_opts, reserved0, 52);
AT(qchain_create_opts, backing_file, 56);
AT(qchain_create_opts, backing_format, 64);
AT(qchain_create_opts, data_file, 72);
AT(qchain_create_opts, policy, 80);

/* qchain_measure_result */
SIZE(qchain_measure_result, 64);
AT(qchain_measure_result, struct_size, 0);
AT(qchain_measure_result, required, 8);
AT(qchain_measure_result, fully_allocated, 16);
AT(qchain_measure_result, bitmaps, 24);
AT(qchain_measure_result, reserved, 32);

/* qchain_convert_opts */
SIZE(qchain_convert_opts, 80);
AT(qchain_convert_opts, struct_size, 0);
AT(qchain_convert_opts, flags, 8);
AT(qchain_convert_opts, threads, 12);
AT(qchain_convert_opts, sparse_bytes, 16);
AT(qchain_convert_opts, create, 24);
AT(qchain_convert_opts, open, 32);
AT(qchain_convert_opts, job, 40);
AT(qchain_convert_opts, reserved, 48);

/* qchain_snapshot_opts */
SIZE(qchain_snapshot_opts, 48);
AT(qchain_snapshot_opts, struct_size, 0);
AT(qchain_snapshot_opts, flags, 8);
AT(qchain_snapshot_opts, reserved0, 12);
AT(qchain_snapshot_opts, vm_state_size, 16);
AT(qchain_snapshot_opts, vm_clock_nsec, 24);
AT(qchain_snapshot_opts, date_ns, 32);
AT(qchain_snapshot_opts, icount, 40);

/* qchain_dirty_extent */
SIZE(qchain_dirty_extent, 24);
AT(qchain_dirty_extent, offset, 0);
AT(qchain_dirty_extent, length, 8);
AT(qchain_dirty_extent, dirty, 16);
AT(qchain_dirty_extent, reserved0, 20);

/* qchain_source_info */
SIZE(qchain_source_info, 72);
AT(qchain_source_info, struct_size, 0);
AT(qchain_source_info, flags, 8);
AT(qchain_source_info, layer, 12);
AT(qchain_source_info, size, 16);
AT(qchain_source_info, allocated_size, 24);
AT(qchain_source_info, mtime_ns, 32);
AT(qchain_source_info, reserved, 40);

/* qchain_check_result */
SIZE(qchain_check_result, 120);
AT(qchain_check_result, struct_size, 0);
AT(qchain_check_result, corruptions, 8);
AT(qchain_check_result, leaks, 16);
AT(qchain_check_result, corruptions_fixed, 24);
AT(qchain_check_result, leaks_fixed, 32);
AT(qchain_check_result, check_errors, 40);
AT(qchain_check_result, total_clusters, 48);
AT(qchain_check_result, allocated_clusters, 56);
AT(qchain_check_result, fragmented_clusters, 64);
AT(qchain_check_result, compressed_clusters, 72);
AT(qchain_check_result, image_end_offset, 80);
AT(qchain_check_result, reserved, 88);

/* qchain_check_opts */
SIZE(qchain_check_opts, 48);
AT(qchain_check_opts, struct_size, 0);
AT(qchain_check_opts, flags, 8);
AT(qchain_check_opts, reserved0, 12);
AT(qchain_check_opts, job, 16);
AT(qchain_check_opts, found, 24);
AT(qchain_check_opts, found_data, 32);
AT(qchain_check_opts, open, 40);

/* qchain_commit_opts */
SIZE(qchain_commit_opts, 72);
AT(qchain_commit_opts, struct_size, 0);
AT(qchain_commit_opts, flags, 8);
AT(qchain_commit_opts, threads, 12);
AT(qchain_commit_opts, base, 16);
AT(qchain_commit_opts, open, 24);
AT(qchain_commit_opts, job, 32);
AT(qchain_commit_opts, reserved, 40);

/* qchain_rebase_opts */
SIZE(qchain_rebase_opts, 80);
AT(qchain_rebase_opts, struct_size, 0);
AT(qchain_rebase_opts, flags, 8);
AT(qchain_rebase_opts, threads, 12);
AT(qchain_rebase_opts, backing_file, 16);
AT(qchain_rebase_opts, backing_format, 24);
AT(qchain_rebase_opts, open, 32);
AT(qchain_rebase_opts, job, 40);
AT(qchain_rebase_opts, reserved, 48);

/* qchain_job_result */
SIZE(qchain_job_result, 104);
AT(qchain_job_result, struct_size, 0);
AT(qchain_job_result, copied, 8);
AT(qchain_job_result, zeroed, 16);
AT(qchain_job_result, compressed, 24);
AT(qchain_job_result, compared, 32);
AT(qchain_job_result, salvaged, 40);
AT(qchain_job_result, layers, 48);
AT(qchain_job_result, reserved0, 52);
AT(qchain_job_result, reserved, 56);

/* qchain_prefetch_range */
SIZE(qchain_prefetch_range, 24);
AT(qchain_prefetch_range, offset, 0);
AT(qchain_prefetch_range, length, 8);
AT(qchain_prefetch_range, chain, 16);
AT(qchain_prefetch_range, reserved0, 20);

/* qchain_prefetch_opts */
SIZE(qchain_prefetch_opts, 104);
AT(qchain_prefetch_opts, struct_size, 0);
AT(qchain_prefetch_opts, flags, 8);
AT(qchain_prefetch_opts, parallel, 12);
AT(qchain_prefetch_opts, ranges, 16);
AT(qchain_prefetch_opts, n_ranges, 24);
AT(qchain_prefetch_opts, reserved0, 28);
AT(qchain_prefetch_opts, bytes_per_second, 32);
AT(qchain_prefetch_opts, requests_per_second, 40);
AT(qchain_prefetch_opts, max_bytes, 48);
AT(qchain_prefetch_opts, deadline_ms, 56);
AT(qchain_prefetch_opts, job, 64);
AT(qchain_prefetch_opts, reserved, 72);

/* qchain_prefetch_result */
SIZE(qchain_prefetch_result, 96);
AT(qchain_prefetch_result, struct_size, 0);
AT(qchain_prefetch_result, visible, 8);
AT(qchain_prefetch_result, local, 16);
AT(qchain_prefetch_result, unkept, 24);
AT(qchain_prefetch_result, cached, 32);
AT(qchain_prefetch_result, fetched, 40);
AT(qchain_prefetch_result, requests, 48);
AT(qchain_prefetch_result, end, 56);
AT(qchain_prefetch_result, reserved0, 60);
AT(qchain_prefetch_result, reserved, 64);

/* qchain_trace_opts */
SIZE(qchain_trace_opts, 56);
AT(qchain_trace_opts, struct_size, 0);
AT(qchain_trace_opts, flags, 8);
AT(qchain_trace_opts, reserved0, 12);
AT(qchain_trace_opts, max_bytes, 16);
AT(qchain_trace_opts, reserved, 24);

/* qchain_trace_record */
SIZE(qchain_trace_record, 32);
AT(qchain_trace_record, time_us, 0);
AT(qchain_trace_record, offset, 8);
AT(qchain_trace_record, length, 16);
AT(qchain_trace_record, reads, 24);

/* qchain_trace */
SIZE(qchain_trace, 104);
AT(qchain_trace, struct_size, 0);
AT(qchain_trace, flags, 8);
AT(qchain_trace, n_ranges, 12);
AT(qchain_trace, n_records, 16);
AT(qchain_trace, disk_size, 24);
AT(qchain_trace, began_ns, 32);
AT(qchain_trace, lost, 40);
AT(qchain_trace, unread, 48);
AT(qchain_trace, records, 56);
AT(qchain_trace, ranges, 64);
AT(qchain_trace, reserved, 72);

/* qchain_trace_load_opts */
SIZE(qchain_trace_load_opts, 56);
AT(qchain_trace_load_opts, struct_size, 0);
AT(qchain_trace_load_opts, flags, 8);
AT(qchain_trace_load_opts, chain, 12);
AT(qchain_trace_load_opts, disk_size, 16);
AT(qchain_trace_load_opts, reserved, 24);

#endif /* __LP64__ */

int main(void)
{
    return 0;
}
