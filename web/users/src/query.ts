// What the list shows, as it stands in the address bar: a link to a search is a link.
export interface ListQuery {
  q: string;
  role: "" | "viewer" | "editor" | "admin";
  active: "" | "true" | "false";
  sort: string;
  page: number;
}

const FIELDS = ["id", "username", "email", "firstName", "lastName", "role", "createdAt", "updatedAt"];
const DEFAULT_SORT = "id,asc";

export function readQuery(search: string): ListQuery {
  const given = new URLSearchParams(search);
  const one = <T extends string>(name: string, allowed: readonly T[]): T | "" => {
    const value = given.get(name) ?? "";
    return allowed.find((candidate) => candidate === value) ?? "";
  };
  const [field, direction] = (given.get("sort") ?? "").split(",");
  const isSort = FIELDS.includes(field ?? "") && (direction === "asc" || direction === "desc");
  const page = Number(given.get("page") ?? 0);
  return {
    q: given.get("q") ?? "",
    role: one("role", ["viewer", "editor", "admin"] as const),
    active: one("active", ["true", "false"] as const),
    sort: isSort ? `${field},${direction}` : DEFAULT_SORT,
    page: Number.isInteger(page) && page >= 0 && page <= 10_000 ? page : 0,
  };
}

/** With a leading `?`, or nothing: what is usual is left out. */
export function writeQuery(query: ListQuery): string {
  const out = new URLSearchParams();
  if (query.q !== "") out.set("q", query.q);
  if (query.role !== "") out.set("role", query.role);
  if (query.active !== "") out.set("active", query.active);
  if (query.sort !== DEFAULT_SORT) out.set("sort", query.sort);
  if (query.page !== 0) out.set("page", String(query.page));
  return out.size === 0 ? "" : `?${out}`;
}
