import { describe, expect, it } from "vitest";
import { action, agent, details, fullName, initials, isAtLeast, mayEdit, plural, relative } from "../src/words";
import { bars } from "../src/chart";
import { readQuery, writeQuery } from "../src/query";
import type { User } from "../src/types";

const ada = { firstName: "Ada", lastName: "Lovelace", username: "ada" };

describe("words", () => {
  it("falls back to the user name", () => {
    expect(fullName(ada)).toBe("Ada Lovelace");
    expect(fullName({ ...ada, firstName: "", lastName: "" })).toBe("ada");
    expect(initials(ada)).toBe("AL");
    expect(initials({ ...ada, firstName: "", lastName: "" })).toBe("A");
  });
  it("knows who may do what", () => {
    expect(isAtLeast("editor", "viewer")).toBe(true);
    expect(isAtLeast("viewer", "editor")).toBe(false);
    const user = (role: User["role"]) => ({ role }) as User;
    expect(mayEdit(user("editor"), user("viewer"))).toBe(true);
    expect(mayEdit(user("editor"), user("editor"))).toBe(false);
    expect(mayEdit(user("admin"), user("admin"))).toBe(true);
    expect(mayEdit(user("viewer"), user("viewer"))).toBe(false);
  });
  it("speaks of time in both directions", () => {
    const now = Date.parse("2026-11-26T12:00:00Z");
    expect(relative("2026-11-26T11:57:00Z", now)).toBe("3 minutes ago");
    expect(relative("2026-11-26T14:00:10Z", now)).toBe("in 2 hours");
    expect(relative("2026-11-26T11:59:40Z", now)).toBe("just now");
    expect(relative("2026-11-20T12:00:00Z", now)).toBe("6 days ago");
  });
  it("reads audit entries", () => {
    expect(action("session.reuse-detected")).toBe("Session reuse detected");
    expect(details({ changed: ["email", "role"], version: 3 })).toBe("changed: email, role; version: 3");
    expect(details(null)).toBe("");
    expect(plural(1, "user")).toBe("1 user");
    expect(plural(1200, "user")).toBe("1,200 users");
  });
  it("recognises browsers", () => {
    expect(agent("Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36")).toBe("Chrome on Linux");
    expect(agent("curl/8.5")).toBe("curl/8.5");
    expect(agent("")).toBe("unknown program");
  });
});

describe("chart", () => {
  it("gives days without anybody a line and the fullest day the height", () => {
    const drawn = bars([0, 5, 10], { width: 300, height: 100, gap: 10 });
    expect(drawn.map((bar) => bar.height)).toEqual([2, 50, 100]);
    expect(drawn.map((bar) => bar.x)).toEqual([0, 103.33, 206.67]);
    expect(bars([0, 0], { width: 10, height: 10, gap: 2 }).every((bar) => bar.height === 2)).toBe(true);
    expect(bars([1, 1000], { width: 10, height: 100, gap: 2 })[0]?.height).toBe(4);
  });
});

describe("query", () => {
  it("survives the address bar and keeps it short", () => {
    expect(writeQuery(readQuery(""))).toBe("");
    const query = { ...readQuery(""), q: "a&b", page: 3, sort: "email,desc", active: "false" as const };
    expect(readQuery(writeQuery(query))).toEqual(query);
    expect(readQuery("?page=-1&sort=password_hash&role=king&active=maybe")).toEqual(readQuery(""));
  });
});
